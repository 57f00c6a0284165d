//! What the initrd decides, apart from what it does: pure functions over bytes.

use std::str;

use sha2::{Digest, Sha256};

use crate::volume::{Hex, hex_32};
use crate::{VolumeRef, VolumeRefError};

/// Longest kernel command line that is accepted.
pub const MAX_COMMAND_LINE_BYTES: usize = 4096;
/// Longest configuration file that is accepted.
pub const MAX_CONFIG_BYTES: usize = 64 << 10;
/// Longest list of modules that is accepted.
pub const MAX_ORDER_BYTES: usize = 4096;

/// What the measured command line says to the initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The root file system.
    pub root: VolumeRef,
    /// SHA-256 of the configuration file.
    pub config: [u8; 32],
}

/// Why a command line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// Longer than [`MAX_COMMAND_LINE_BYTES`].
    #[error("the command line has {0} bytes, more than 4096")]
    TooLong(usize),
    /// Something else than printable ASCII, or a quotation mark: readers differ on what it means.
    #[error("byte {0} of the command line is not plain ASCII, or a quotation mark")]
    Character(usize),
    /// An argument stands nowhere.
    #[error("the command line has no `{0}=`")]
    Missing(&'static str),
    /// An argument stands twice.
    #[error("the command line has more than one `{0}=`")]
    Duplicate(&'static str),
    /// An argument in our name that we do not know: number of the word, from 1.
    #[error("word {0} of the command line is an unknown `cloister` argument")]
    Unknown(usize),
    /// `cloister.root` does not name a volume.
    #[error("`cloister.root`: {0}")]
    Root(VolumeRefError),
    /// `cloister.config` is not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("`cloister.config` is not `sha256:` and 64 lower-case hexadecimal digits")]
    Config,
}

const ROOT: &str = "cloister.root";
const CONFIG: &str = "cloister.config";

impl Arguments {
    /// Reads `/proc/cmdline`: exactly one root, exactly one configuration, no other argument
    /// whose name starts with `cloister`.
    pub fn parse(command_line: &[u8]) -> Result<Self, ArgumentsError> {
        let line = command_line.strip_suffix(b"\n").unwrap_or(command_line);
        if line.len() > MAX_COMMAND_LINE_BYTES {
            return Err(ArgumentsError::TooLong(line.len()));
        }
        let odd = |&c: &u8| c == b'"' || !(c == b' ' || c.is_ascii_graphic());
        if let Some(at) = line.iter().position(odd) {
            return Err(ArgumentsError::Character(at));
        }
        let line = str::from_utf8(line).map_err(|e| ArgumentsError::Character(e.valid_up_to()))?;
        let (mut root, mut config) = (None, None);
        for (number, word) in (1..).zip(line.split(' ').filter(|word| !word.is_empty())) {
            match word.split_once('=') {
                Some((ROOT, value)) => set_once(&mut root, ROOT, value)?,
                Some((CONFIG, value)) => set_once(&mut config, CONFIG, value)?,
                _ if is_ours(word) => return Err(ArgumentsError::Unknown(number)),
                _ => {}
            }
        }
        let root = root.ok_or(ArgumentsError::Missing(ROOT))?;
        let config = config.ok_or(ArgumentsError::Missing(CONFIG))?;
        let digest = config.strip_prefix("sha256:").and_then(hex_32);
        Ok(Self {
            root: root.parse().map_err(ArgumentsError::Root)?,
            config: digest.ok_or(ArgumentsError::Config)?,
        })
    }
}

fn set_once<'a>(
    slot: &mut Option<&'a str>,
    name: &'static str,
    value: &'a str,
) -> Result<(), ArgumentsError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ArgumentsError::Duplicate(name)),
    }
}

fn is_ours(word: &str) -> bool {
    let start = word.as_bytes().get(..8);
    start.is_some_and(|start| start.eq_ignore_ascii_case(b"cloister"))
}

/// Why a list of modules is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Longer than [`MAX_ORDER_BYTES`].
    #[error("the list of modules has {0} bytes, more than 4096")]
    TooLong(usize),
    /// The last line does not end.
    #[error("the list of modules does not end with a line break")]
    Unterminated,
    /// A line is no file name like `dm-verity.ko.xz`: number of the line.
    #[error("line {0} of the list of modules is no file name like `dm-verity.ko.xz`")]
    Name(usize),
    /// A module stands twice: number of the line.
    #[error("line {0} of the list of modules repeats a module")]
    Repeated(usize),
}

/// A kernel module that the initrd loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module<'a> {
    /// Its file in `/modules`.
    pub name: &'a str,
    /// Whether the kernel may answer that the machine has no such device.
    pub for_some_machines: bool,
}

/// Reads `/modules/order`: one file name of that folder per line, in the order of loading; before
/// it a `?` where only some machines have the device.
pub fn parse_order(order: &[u8]) -> Result<Vec<Module<'_>>, OrderError> {
    if order.len() > MAX_ORDER_BYTES {
        return Err(OrderError::TooLong(order.len()));
    }
    let mut modules: Vec<Module<'_>> = Vec::new();
    if order.is_empty() {
        return Ok(modules);
    }
    let lines = order.strip_suffix(b"\n").ok_or(OrderError::Unterminated)?;
    for (number, line) in (1..).zip(lines.split(|&c| c == b'\n')) {
        let line = str::from_utf8(line).map_err(|_| OrderError::Name(number))?;
        let marked = line.strip_prefix('?');
        let name = marked.unwrap_or(line);
        let stem = name
            .strip_suffix(".ko.xz")
            .ok_or(OrderError::Name(number))?;
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if stem.is_empty() || !stem.bytes().all(plain) {
            return Err(OrderError::Name(number));
        }
        if modules.iter().any(|module| module.name == name) {
            return Err(OrderError::Repeated(number));
        }
        modules.push(Module {
            name,
            for_some_machines: marked.is_some(),
        });
    }
    Ok(modules)
}

/// Why a configuration file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Longer than [`MAX_CONFIG_BYTES`].
    #[error("the configuration has {0} bytes, more than 65536")]
    TooLong(usize),
    /// Not the file that the command line pins.
    #[error("the configuration is sha256:{}, the command line says sha256:{}",
            Hex(.found), Hex(.expected))]
    Digest {
        /// What the command line says.
        expected: [u8; 32],
        /// What the file has.
        found: [u8; 32],
    },
}

/// Accepts exactly the configuration whose SHA-256 is `expected`.
pub fn check_config(config: &[u8], expected: &[u8; 32]) -> Result<(), ConfigError> {
    if config.len() > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLong(config.len()));
    }
    let found: [u8; 32] = Sha256::digest(config).into();
    if found != *expected {
        return Err(ConfigError::Digest {
            expected: *expected,
            found,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root() -> String {
        format!(
            "cloister.root=verity1:{}:{}:9",
            "ab".repeat(32),
            "01".repeat(32)
        )
    }

    fn config() -> String {
        format!("cloister.config=sha256:{}", "cd".repeat(32))
    }

    fn parse(line: &str) -> Result<Arguments, ArgumentsError> {
        Arguments::parse(line.as_bytes())
    }

    #[test]
    fn both_arguments_are_found_among_others() {
        let line = format!("quiet  {} panic=-1 {} initrd=initrd\n", root(), config());
        let arguments = parse(&line).unwrap();
        assert_eq!(arguments.root.data_blocks(), 9);
        assert_eq!(arguments.config, [0xcd; 32]);
    }

    #[test]
    fn each_fault_of_a_command_line_has_its_own_refusal() {
        use ArgumentsError as E;
        let (root, config) = (&root(), &config());
        let both = &format!("{root} {config}");
        let cases = [
            (String::new(), E::Missing(ROOT)),
            (root.clone(), E::Missing(CONFIG)),
            (config.clone(), E::Missing(ROOT)),
            (format!("{both} {root}"), E::Duplicate(ROOT)),
            (format!("{both} {config}"), E::Duplicate(CONFIG)),
            (format!("{both} cloister.root="), E::Duplicate(ROOT)),
            (format!("{both} cloister.debug"), E::Unknown(3)),
            (format!("{both} cloister.root"), E::Unknown(3)),
            (format!("{both} cloister"), E::Unknown(3)),
            (format!("Cloister.root=x {both}"), E::Unknown(1)),
            (format!("cloister_root=x {both}"), E::Unknown(1)),
            (format!("a=\"{both}\""), E::Character(2)),
            (format!("{both}\nx"), E::Character(both.len())),
            (format!("{both}\0"), E::Character(both.len())),
            (format!("{both} ü"), E::Character(both.len() + 1)),
            (
                format!("{config} cloister.root=x"),
                E::Root(VolumeRefError::Scheme),
            ),
            (format!("{root} cloister.config=sha256:"), E::Config),
            (
                format!("{root} cloister.config={}", "cd".repeat(32)),
                E::Config,
            ),
            (
                format!(
                    "{root} {}",
                    config.to_uppercase().replace("CLOISTER.CONFIG", CONFIG)
                ),
                E::Config,
            ),
            ("x".repeat(4097), E::TooLong(4097)),
        ];
        for (line, error) in cases {
            assert_eq!(parse(&line), Err(error), "{line}");
        }
    }

    #[test]
    fn modules_are_read_in_their_order() {
        let order = b"virtio_blk.ko.xz\n?sev-guest.ko.xz\n";
        let module = |name, for_some_machines| Module {
            name,
            for_some_machines,
        };
        assert_eq!(
            parse_order(order).unwrap(),
            [
                module("virtio_blk.ko.xz", false),
                module("sev-guest.ko.xz", true)
            ]
        );
        assert!(parse_order(b"").unwrap().is_empty());
    }

    #[test]
    fn each_fault_of_a_module_list_has_its_own_refusal() {
        use OrderError as E;
        let cases: [(&[u8], E); 11] = [
            (b"a.ko.xz", E::Unterminated),
            (b"\n", E::Name(1)),
            (b"a.ko.xz\n\n", E::Name(2)),
            (b"a.ko\n", E::Name(1)),
            (b".ko.xz\n", E::Name(1)),
            (b"../a.ko.xz\n", E::Name(1)),
            (b"a.ko.xz\n\xff.ko.xz\n", E::Name(2)),
            (b"a.ko.xz\nb.ko.xz\na.ko.xz\n", E::Repeated(3)),
            (b"a.ko.xz\n?a.ko.xz\n", E::Repeated(2)),
            (b"??a.ko.xz\n", E::Name(1)),
            (b"a?.ko.xz\n", E::Name(1)),
        ];
        for (order, error) in cases {
            assert_eq!(parse_order(order), Err(error));
        }
        assert_eq!(parse_order(&[b'a'; 4097]), Err(E::TooLong(4097)));
    }

    #[test]
    fn only_the_pinned_configuration_is_accepted() {
        let expected = Sha256::digest(b"version = 1\n").into();
        assert_eq!(check_config(b"version = 1\n", &expected), Ok(()));
        let outcome = check_config(b"version = 2\n", &expected);
        assert!(matches!(outcome, Err(ConfigError::Digest { .. })));
        let long = vec![b'#'; MAX_CONFIG_BYTES + 1];
        assert_eq!(
            check_config(&long, &expected),
            Err(ConfigError::TooLong(long.len()))
        );
    }

    proptest! {
        #[test]
        fn a_changed_command_line_never_yields_other_arguments(
            at in 0usize..300, byte: u8, insert: bool,
        ) {
            let line = format!("quiet {} {} panic=-1", root(), config());
            let genuine = parse(&line).unwrap();
            let mut changed = line.clone().into_bytes();
            let at = at % changed.len();
            if insert { changed.insert(at, byte) } else { changed[at] = byte }
            if let Ok(arguments) = Arguments::parse(&changed) {
                let digits = |v: &Arguments| {
                    let config: String = format!("{}", Hex(&v.config));
                    (v.root.to_string(), config)
                };
                let text = String::from_utf8(changed).unwrap();
                let (root, config) = digits(&arguments);
                prop_assert!(text.contains(&root) && text.contains(&config));
                prop_assert!(insert || arguments == genuine || text != line);
            }
        }

        #[test]
        fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>) {
            Arguments::parse(&bytes).ok();
            parse_order(&bytes).ok();
        }
    }
}
