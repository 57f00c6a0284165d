//! QEMU's monitor (QMP): a line of JSON for each command, answer and event.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// QEMU answers at once, on a busy machine within seconds.
const ANSWER: Duration = Duration::from_secs(60);
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Why the monitor gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The connection broke, or QEMU fell silent.
    #[error("QEMU's monitor does not answer")]
    Lost(#[source] io::Error),
    /// Something else than a line of JSON.
    #[error("QEMU's monitor answers in another form")]
    Form,
    /// The command failed.
    #[error("QEMU refuses the command {0}")]
    Refused(&'static str),
}

/// A connection.
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    pub(super) fn open(stream: UnixStream) -> Result<Self, MonitorError> {
        let set = |stream: &UnixStream| {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(ANSWER))?;
            stream.set_write_timeout(Some(ANSWER))
        };
        set(&stream).map_err(MonitorError::Lost)?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.line()?; // the greeting
        monitor.run("qmp_capabilities")?;
        Ok(monitor)
    }

    /// A command without arguments.
    pub(super) fn run(&mut self, command: &'static str) -> Result<Value, MonitorError> {
        self.execute(command, json!({ "execute": command }))
    }

    /// A command of the monitor for people, and its text.
    pub(super) fn human(&mut self, line: &'static str) -> Result<String, MonitorError> {
        let arguments = json!({ "command-line": line });
        let request = json!({ "execute": "human-monitor-command", "arguments": arguments });
        match self.execute(line, request)? {
            Value::String(text) => Ok(text),
            _ => Err(MonitorError::Form),
        }
    }

    fn execute(&mut self, name: &'static str, request: Value) -> Result<Value, MonitorError> {
        let line = format!("{request}\n");
        let written = self.0.get_mut().write_all(line.as_bytes());
        written.map_err(MonitorError::Lost)?;
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if answer.get("error").is_some() {
                return Err(MonitorError::Refused(name));
            }
            // Anything else is an event.
        }
    }

    fn line(&mut self) -> Result<Value, MonitorError> {
        let mut line = Vec::new();
        let mut limited = self.0.by_ref().take(MAX_LINE_BYTES);
        let count = limited.read_until(b'\n', &mut line);
        if count.map_err(MonitorError::Lost)? == 0 {
            return Err(MonitorError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|_| MonitorError::Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that says this and closes.
    fn opened(said: &str) -> Result<Monitor, MonitorError> {
        let (ours, mut theirs) = UnixStream::pair().map_err(MonitorError::Lost)?;
        let written = theirs.write_all(said.as_bytes());
        written.map_err(MonitorError::Lost)?;
        let lines = theirs.shutdown(std::net::Shutdown::Write);
        lines.map_err(MonitorError::Lost)?;
        let monitor = Monitor::open(ours);
        drop(theirs);
        monitor
    }

    #[test]
    fn answers_events_and_refusals_are_told_apart() {
        let greeting = "{\"QMP\":{}}\n";
        let event = "{\"event\":\"RESUME\"}\n";
        let done = "{\"return\":{}}\n";
        let error = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}\n";
        assert!(opened(&[greeting, event, done].concat()).is_ok());
        let fault = |said: &[&str]| opened(&said.concat()).err();
        assert!(matches!(fault(&[]), Some(MonitorError::Lost(_))));
        assert!(matches!(
            fault(&[greeting, event]),
            Some(MonitorError::Lost(_))
        ));
        assert!(matches!(
            fault(&["HTTP/1.1 200\n"]),
            Some(MonitorError::Form)
        ));
        let refused = fault(&[greeting, error]);
        assert!(matches!(
            refused,
            Some(MonitorError::Refused("qmp_capabilities"))
        ));
    }
}
