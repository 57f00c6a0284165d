//! Short names that are safe to print, to compare and to put into a file name, and short texts that
//! are at least safe to print.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name of 1 to 64 characters out of `A-Z a-z 0-9 . _ -` that starts with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// Not a name: see [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name: 1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or a digit")]
pub struct NameError;

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let fits = text.len() <= 64
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if starts_well && fits {
            Ok(Self(text.into()))
        } else {
            Err(NameError)
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text of 1 to 200 printable ASCII characters: a reason, or who built something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(Box<str>);

/// Not a text: see [`Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a text: 1 to 200 printable ASCII characters, no space at either end")]
pub struct TextError;

impl Text {
    /// As it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Text {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        match printable && (1..=200).contains(&text.len()) && text.trim() == text {
            true => Ok(Self(text.into())),
            false => Err(TextError),
        }
    }
}

impl TryFrom<String> for Text {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        text.parse()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0.into()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_hide_what_a_terminal_obeys() {
        for good in ["a key was stolen", "~", &"x".repeat(200)] {
            assert_eq!(good.parse::<Text>().unwrap().as_str(), good);
        }
        for wrong in ["", " a", "a ", "a\nb", "\u{1b}[2J", "é", &"x".repeat(201)] {
            assert_eq!(wrong.parse::<Text>(), Err(TextError), "{wrong:?}");
        }
    }

    #[test]
    fn a_name_cannot_hide_a_path_or_an_escape() {
        for good in ["cloister-demo", "a", "v1.2_3", &"x".repeat(64)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for wrong in [
            "",
            ".",
            "../x",
            "a/b",
            "a b",
            "\u{1b}[2J",
            "é",
            &"x".repeat(65),
        ] {
            assert_eq!(wrong.parse::<Name>(), Err(NameError), "{wrong}");
        }
    }
}
