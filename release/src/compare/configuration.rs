//! A site's configuration as a table of keys. The file is small TOML of a strict form, which
//! [`attest::Configuration`] has checked before it is booted; here each line is one setting.

use std::collections::BTreeMap;

/// `section.key` and its value as written.
pub(super) fn parse(text: &str) -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut settings = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = format!("{name}.");
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            settings.insert(format!("{section}{}", key.trim()), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_carry_their_section() {
        let table = super::parse("version = 1\n[model]\nname = \"a\"\n# x = 1\n");
        assert_eq!(table["version"], "1");
        assert_eq!(table["model.name"], "\"a\"");
        assert_eq!(table.len(), 2);
    }
}
