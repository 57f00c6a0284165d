//! The kernel command line of a release.
//!
//! ```text
//! <base arguments of the image> cloister.root=verity1:… cloister.config=sha256:…
//! ```
//!
//! One line of printable ASCII: neither the stub nor the kernel then changes a byte of it, and the
//! measured text is the text that acts.

use std::fmt;

use attest::Digest;
use verity::VolumeRef;
use verity::boot::{Arguments, ArgumentsError};

/// Most bytes that an x86-64 kernel takes (`COMMAND_LINE_SIZE` less the final NUL).
pub const MAX_BYTES: usize = 2047;

/// A kernel command line that names the root volume and the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    text: String,
    arguments: Arguments,
}

/// Why a text is not a command line that we boot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// Not UTF-8.
    #[error("the command line is not UTF-8 after byte {0}")]
    NotUtf8(usize),
    /// A NUL byte.
    #[error("the command line has a NUL at byte {0}")]
    Nul(usize),
    /// A character that the stub or the kernel would change or read in its own way.
    #[error("the command line has an unprintable or non-ASCII character at byte {0}")]
    Unprintable(usize),
    /// Space at an end, which the stub would trim.
    #[error("the command line begins or ends with a space")]
    Untrimmed,
    /// Longer than the kernel takes: it would be cut short in silence.
    #[error("the command line has {0} bytes; the kernel takes {MAX_BYTES}")]
    TooLong(usize),
    /// `--`: what follows it goes to init and not to the kernel.
    #[error("the command line has the argument `--`, which ends the kernel's own arguments")]
    Terminator,
    /// A quotation mark, which would let one argument hold another.
    #[error("the command line has a quotation mark at byte {0}")]
    Quote(usize),
    /// The base names what `assemble` alone may name.
    #[error("the base command line already has an argument that begins with `cloister`")]
    Reserved,
    /// The initrd would not take the line.
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
}

impl CommandLine {
    /// The image's base arguments, then the root volume and the configuration. One final newline
    /// of the base, as text files have, is left out.
    pub fn assemble(
        base: &[u8],
        root: &VolumeRef,
        configuration: Digest<32>,
    ) -> Result<Self, CommandLineError> {
        let base = checked_text(base.strip_suffix(b"\n").unwrap_or(base))?;
        let ours = |argument: &str| argument.to_ascii_lowercase().starts_with("cloister");
        if base.split(' ').any(ours) {
            return Err(CommandLineError::Reserved);
        }
        let space = if base.is_empty() { "" } else { " " };
        let line =
            format!("{base}{space}cloister.root={root} cloister.config=sha256:{configuration}");
        Self::parse(line.as_bytes())
    }

    /// Reads a whole command line, as it stands in a UKI: as the initrd's init will, and more
    /// strictly.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandLineError> {
        let text = checked_text(bytes)?.to_owned();
        let arguments = Arguments::parse(bytes)?;
        Ok(Self { text, arguments })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The root volume.
    pub fn root(&self) -> VolumeRef {
        self.arguments.root
    }

    /// SHA-256 of the configuration.
    pub fn configuration(&self) -> Digest<32> {
        Digest(self.arguments.config)
    }

    /// What the kernel's EFI stub measures: UTF-16, little-endian, with a final NUL.
    pub fn to_load_options(&self) -> Vec<u8> {
        let units = self.text.encode_utf16().chain([0]);
        units.flat_map(u16::to_le_bytes).collect()
    }
}

/// One printable line that neither the stub nor the kernel changes.
fn checked_text(bytes: &[u8]) -> Result<&str, CommandLineError> {
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|error| CommandLineError::NotUtf8(error.valid_up_to()))?;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            0 => return Err(CommandLineError::Nul(at)),
            b'"' => return Err(CommandLineError::Quote(at)),
            b' '..=b'~' => {}
            _ => return Err(CommandLineError::Unprintable(at)),
        }
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err(CommandLineError::Untrimmed);
    }
    if text.split(' ').any(|argument| argument == "--") {
        return Err(CommandLineError::Terminator);
    }
    if text.len() > MAX_BYTES {
        return Err(CommandLineError::TooLong(text.len()));
    }
    Ok(text)
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> VolumeRef {
        VolumeRef::new([0xab; 32], [1; 32], 7).unwrap()
    }

    fn assemble(base: &[u8]) -> Result<CommandLine, CommandLineError> {
        CommandLine::assemble(base, &root(), Digest::sha256(b"x"))
    }

    #[test]
    fn both_volumes_are_named_and_found_again() {
        let line = assemble(b"panic=-1 quiet\n").unwrap();
        assert!(
            line.as_str()
                .starts_with("panic=-1 quiet cloister.root=verity1:abab")
        );
        assert_eq!(line.root(), root());
        assert_eq!(line.configuration(), Digest::sha256(b"x"));
        assert_eq!(CommandLine::parse(line.as_str().as_bytes()), Ok(line));
    }

    #[test]
    fn load_options_are_utf_16_with_a_nul() {
        let options = assemble(b"a").unwrap().to_load_options();
        assert_eq!(&options[..4], b"a\0 \0");
        assert_eq!(&options[options.len() - 2..], [0, 0]);
    }

    #[test]
    fn each_fault_has_its_own_refusal() {
        use CommandLineError as E;
        let long = vec![b'a'; MAX_BYTES - 100];
        let cases: [(&[u8], E); 12] = [
            (b"a\xff", E::NotUtf8(1)),
            (b"a\0b", E::Nul(1)),
            (b"a\0", E::Nul(1)),
            (b"a\tb", E::Unprintable(1)),
            (b"a\n\n", E::Unprintable(1)),
            ("a\u{e9}".as_bytes(), E::Unprintable(1)),
            (b" a", E::Untrimmed),
            (b"a ", E::Untrimmed),
            (b"a -- b", E::Terminator),
            (b"a=\"b c\"", E::Quote(2)),
            (b"Cloister-debug", E::Reserved),
            (&long, E::TooLong(MAX_BYTES + 142)),
        ];
        for (base, error) in cases {
            assert_eq!(
                assemble(base),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(base)
            );
        }
    }

    #[test]
    fn a_whole_line_names_each_volume_once() {
        let line = assemble(b"a").unwrap().to_string();
        let refused = |text: &str| match CommandLine::parse(text.as_bytes()).unwrap_err() {
            CommandLineError::Arguments(error) => error,
            other => panic!("{other}"),
        };
        let (root_key, config_key) = ("cloister.root", "cloister.config");
        let twice = format!("{line} cloister.root={}", root());
        assert_eq!(refused(&twice), ArgumentsError::Duplicate(root_key));
        assert_eq!(refused("a"), ArgumentsError::Missing(root_key));
        let no_config = format!("cloister.root={}", root());
        assert_eq!(refused(&no_config), ArgumentsError::Missing(config_key));
        let upper = line.replace("sha256:2d", "sha256:2D");
        assert_ne!(upper, line);
        assert_eq!(refused(&upper), ArgumentsError::Config);
        let other = format!("{line} cloister.debug=1");
        assert_eq!(refused(&other), ArgumentsError::Unknown(4));
    }
}
