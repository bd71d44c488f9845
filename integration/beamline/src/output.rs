//! Standard output carries the READY line alone; what the IOC's parts print goes to standard error or to the log.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The standard output that the process was started with.
pub struct Output(File);

impl Output {
    pub fn redirect(log: Option<&Path>) -> io::Result<Self> {
        let own: OwnedFd = nix::unistd::dup(io::stdout())?;
        if let Some(path) = log {
            let file = File::options().create(true).append(true).open(path)?;
            nix::unistd::dup2_stderr(&file)?;
        }
        nix::unistd::dup2_stdout(io::stderr())?;
        Ok(Self(File::from(own)))
    }

    pub fn print(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.flush()
    }
}
