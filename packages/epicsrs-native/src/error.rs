//! What can go wrong with one call, as plain data; the channel adds the PV's name.

use std::fmt;

/// One kind for each Python exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No server answered, or the circuit was lost: `NotConnectedError`.
    NotConnected,
    /// Connected, but no reply in time: `ReplyTimeoutError`.
    ReplyTimeout,
    /// The server refused, in its own words: `RemoteError`.
    Remote,
    /// Access security refused: `AccessDeniedError`.
    AccessDenied,
    /// The caller's value: `ValueError`.
    Value,
    /// The caller's type: `TypeError`.
    Type,
    /// Anything else between us and the PV: `EpicsError`.
    Other,
}

#[derive(Clone, Debug)]
pub struct Error {
    pub kind: Kind,
    pub text: String,
    /// The server's own words, where they are part of the text.
    pub words: Option<String>,
}

impl Error {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            words: None,
        }
    }

    /// What a server refused, and how it put it.
    pub fn refused(kind: Kind, what: &str, words: impl Into<String>) -> Self {
        let words = words.into();
        Self {
            kind,
            text: format!("the server refused{what}: {words}"),
            words: Some(words),
        }
    }

    pub fn lost() -> Self {
        Self::new(Kind::NotConnected, "the circuit to its server was lost")
    }

    pub fn value(text: impl Into<String>) -> Self {
        Self::new(Kind::Value, text)
    }

    pub fn wrong_type(text: impl Into<String>) -> Self {
        Self::new(Kind::Type, text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
