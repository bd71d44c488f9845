//! Why the IOC is to end: a signal, or standard input closed where that is asked for.

use std::io::{self, Read};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Hears what happens from its making on.
pub struct Stop {
    terminated: Signal,
    interrupted: Signal,
    parent_left: Option<watch::Receiver<bool>>,
}

impl Stop {
    pub fn listen(with_stdin: bool) -> io::Result<Self> {
        Self::with(with_stdin.then(watch_stdin))
    }

    /// A second listener.
    pub fn again(&self) -> io::Result<Self> {
        Self::with(self.parent_left.clone())
    }

    fn with(parent_left: Option<watch::Receiver<bool>>) -> io::Result<Self> {
        Ok(Self {
            terminated: signal(SignalKind::terminate())?,
            interrupted: signal(SignalKind::interrupt())?,
            parent_left,
        })
    }

    /// Wait for the reason to end.
    pub async fn told(&mut self) -> &'static str {
        let left = async {
            match &mut self.parent_left {
                Some(left) => drop(left.wait_for(|left| *left).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminated.recv() => "SIGTERM",
            _ = self.interrupted.recv() => "SIGINT",
            () = left => "standard input is closed",
        }
    }
}

fn watch_stdin() -> watch::Receiver<bool> {
    let (told, left) = watch::channel(false);
    std::thread::spawn(move || {
        let mut ignored = [0; 256];
        while matches!(io::stdin().read(&mut ignored), Ok(read) if read > 0) {}
        told.send_replace(true);
    });
    left
}
