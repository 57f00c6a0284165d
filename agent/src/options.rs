//! The command line.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use crate::site::Places;

/// What `--help` prints.
pub const HELP: &str = "\
The process in a Cloister VM: serves one model through an attested channel.

Usage: cloister-agent COMMAND [OPTION...]

Commands:
  prepare   as root: open the model volume, copy what only root may read
  serve     without privileges: open the model, make keys, serve
  check     anywhere: say whether serve would open this model

Options:
      --config FILE        configuration              [/run/cloister/config.toml]
      --model DIR          where the model stands     [/run/cloister/model]
      --event-log FILE     copy of the event log      [/run/cloister/event-log]
      --release FILE       copy of the bundle         [/run/cloister/release.json]
      --tpm PATH           TPM device or socket       [/dev/tpmrm0]
      --listen ADDRESS     where to listen            [0.0.0.0]
      --metrics-interval MS  age of metrics, at most  [60000]
  -h, --help               print this
  -V, --version            print the version

The port and all that decides behaviour stand in the configuration, which is measured.
";

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// `prepare`
    Prepare(Places),
    /// `serve`
    Serve(Places),
    /// `check`
    Check(Places),
    /// `--help`
    Help,
    /// `--version`
    Version,
}

/// Why a command line is not one.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// An argument that is unknown or lacks its value.
    #[error(transparent)]
    Argument(#[from] lexopt::Error),
    /// None of the commands.
    #[error("one command is needed: prepare, serve or check")]
    Command,
}

/// Reads the arguments, the program's name not among them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, OptionsError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut places = Places::default();
    let mut command = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Long("config") => places.configuration = path(&mut parser)?,
            Long("model") => places.model = path(&mut parser)?,
            Long("event-log") => places.event_log = path(&mut parser)?,
            Long("release") => places.release = path(&mut parser)?,
            Long("tpm") => places.tpm = path(&mut parser)?,
            Long("listen") => places.listen = parser.value()?.parse()?,
            Long("metrics-interval") => {
                let milliseconds: NonZeroU32 = parser.value()?.parse()?;
                places.metrics_interval = Duration::from_millis(milliseconds.get().into());
            }
            Value(name) if command.is_none() && name == "prepare" => {
                command = Some(Command::Prepare as fn(Places) -> Command);
            }
            Value(name) if command.is_none() && name == "serve" => {
                command = Some(Command::Serve);
            }
            Value(name) if command.is_none() && name == "check" => {
                command = Some(Command::Check);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    command
        .map(|command| command(places))
        .ok_or(OptionsError::Command)
}

fn path(parser: &mut lexopt::Parser) -> Result<PathBuf, lexopt::Error> {
    parser.value().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_and_its_places() {
        let Ok(Command::Serve(places)) = parsed("serve --tpm /tmp/t --listen ::1") else {
            panic!("not served");
        };
        assert_eq!(places.tpm, PathBuf::from("/tmp/t"));
        assert!(places.listen.is_ipv6());
        assert_eq!(places.model, Places::default().model);
        let Ok(Command::Prepare(places)) = parsed("prepare --model /m") else {
            panic!("not prepared");
        };
        assert_eq!(places.model, Path::new("/m"));
        assert!(matches!(parsed("--help"), Ok(Command::Help)));
        assert!(matches!(parsed("serve -V"), Ok(Command::Version)));
    }

    #[test]
    fn misuse_is_named() {
        let error = |line| parsed(line).unwrap_err();
        assert_eq!(error(""), "one command is needed: prepare, serve or check");
        assert_eq!(error("serve --debug"), "invalid option '--debug'");
        assert_eq!(error("serve prepare"), "unexpected argument \"prepare\"");
        assert_eq!(error("serve --tpm"), "missing argument for option '--tpm'");
        assert!(error("serve --metrics-interval 0").starts_with("cannot parse argument \"0\""));
        assert!(error("serve --listen here").starts_with("cannot parse argument \"here\""));
    }

    #[test]
    fn the_help_shows_every_default() {
        let places = Places::default();
        for path in [
            places.configuration,
            places.model,
            places.event_log,
            places.release,
        ] {
            assert!(HELP.contains(&format!("[{}]", path.display())));
        }
    }
}
