//! One opaque error: what failed, on what, and what to do about it.

use std::borrow::Cow;
use std::fmt;

/// What kind of thing failed. New kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting has a value that is not accepted.
    Config,
    /// Another profiler runs in this process, or somebody else owns the signal.
    InUse,
    /// The kernel refused something that sampling needs.
    Kernel,
    /// A file or directory could not be read or written.
    Io,
    /// A profile could not be delivered.
    Export,
}

/// Why a call of this crate failed. `Display` gives the whole story on one line.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of thing failed.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {}
