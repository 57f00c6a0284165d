//! Where a server is.

use std::fmt;
use std::str::FromStr;

/// `http://host:port` or `https://host:port`, and nothing behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    /// A name or an address, the latter without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("a URL such as https://host or http://127.0.0.1:8080 is expected")]
    Url,
    #[error("only http:// and https:// are known")]
    Scheme,
    #[error("the URL names the server only: no path, query or user")]
    TooMuch,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (scheme, _) = text.split_once("://").ok_or(EndpointError::Url)?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(EndpointError::Scheme),
        };
        let uri: http::Uri = text.parse().map_err(|_| EndpointError::Url)?;
        let authority = uri.authority().ok_or(EndpointError::Url)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !bare || text.contains('#') || authority.as_str().contains('@') {
            return Err(EndpointError::TooMuch);
        }
        let behind = &authority.as_str()[authority.host().len()..];
        let port = match behind.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| EndpointError::Url)?,
            None => [80, 443][usize::from(tls)],
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() || port == 0 {
            return Err(EndpointError::Url);
        }
        Ok(Self { tls, host, port })
    }
}

impl Endpoint {
    /// Host and port, as a `Host` header holds them.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_servers() {
        for (text, shown) in [
            ("http://host", "http://host:80"),
            ("https://host/", "https://host:443"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://[::1]:8443/", "https://[::1]:8443"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for (text, error) in [
            ("", EndpointError::Url),
            ("host:80", EndpointError::Url),
            ("http://", EndpointError::Url),
            ("http://host:", EndpointError::Url),
            ("http://host:0", EndpointError::Url),
            ("http://host:99999", EndpointError::Url),
            ("http://two words", EndpointError::Url),
            ("ftp://host", EndpointError::Scheme),
            ("http://host/v1", EndpointError::TooMuch),
            ("http://host?x", EndpointError::TooMuch),
            ("http://host#x", EndpointError::TooMuch),
            ("http://me@host", EndpointError::TooMuch),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap_err(), error, "{text}");
        }
    }
}
