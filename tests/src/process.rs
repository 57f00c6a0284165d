//! Child processes that end when their owner does, however it ends.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A running program; killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

type Order = (Command, Sender<io::Result<Child>>);

impl Process {
    /// Starts a program.
    ///
    /// The kernel ties a child's life to the *thread* that started it (see [`crate::tools`]), and a
    /// test's thread may end before the test's virtual machine does. So one thread, which never
    /// ends, starts them all. Ctrl-C at a terminal is for its owner, not for the program.
    pub fn start(mut command: Command) -> io::Result<Self> {
        static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
        let starter = STARTER.get_or_init(|| {
            let (sender, orders) = channel::<Order>();
            thread::spawn(move || {
                for (mut command, answer) in orders {
                    answer.send(command.spawn()).ok();
                }
            });
            sender
        });
        command.process_group(0);
        let (answer, child) = channel();
        let lost = || io::Error::other("the thread that starts programs is gone");
        starter.send((command, answer)).map_err(|_| lost())?;
        let child = child.recv().map_err(|_| lost())??;
        Ok(Self { child })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it ends, at most `patience`.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + patience;
        loop {
            let ended = self.ended()?;
            if ended.is_some() || Instant::now() >= end {
                return Ok(ended);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill().ok(); // it may have ended already
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_owner() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut process = Process::start(command).unwrap();
        assert!(process.wait(Duration::from_millis(50)).unwrap().is_none());
        let path = format!("/proc/{}", process.child.id());
        assert!(std::path::Path::new(&path).exists());
        drop(process);
        assert!(!std::path::Path::new(&path).exists());
    }
}
