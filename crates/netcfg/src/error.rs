//! Errors: each names the object it is about and, where the kernel refused, the errno.

use std::{fmt, io};

use nix::errno::Errno;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel answered a request with an errno.
    #[error("{what}: {errno}{}", detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Kernel {
        /// The operation and its object, e.g. `add route 10.0.0.0/24 via 10.1.0.1 dev 3 table 254`.
        what: String,
        /// What the kernel answered.
        errno: Errno,
        /// The kernel's own explanation (`NLMSGERR_ATTR_MSG`), when it gave one.
        detail: Option<String>,
    },
    /// A system call or file operation failed.
    #[error("{what}: {error}")]
    Io {
        /// The operation and its object.
        what: String,
        /// What went wrong; part of the text, hence not a `source`.
        error: io::Error,
    },
    /// The netlink connection's task is gone.
    #[error("{0}: netlink connection closed")]
    Closed(String),
    /// The kernel did not answer; the request may or may not have been carried out.
    #[error("{0}: no answer from the kernel in time")]
    Timeout(String),
    /// A dump was interrupted by concurrent changes on every attempt (`NLM_F_DUMP_INTR`).
    #[error("{0}: the table kept changing while it was read")]
    Unstable(String),
    /// No such link.
    #[error("link {0} not found")]
    LinkNotFound(String),
    /// A name or value that the kernel would not accept, found before asking it.
    #[error("invalid {what} {value:?}: {reason}")]
    Invalid {
        /// The kind of object.
        what: &'static str,
        /// The rejected value.
        value: String,
        /// Why it is rejected.
        reason: &'static str,
    },
    /// A command exited with an error.
    #[error("{command}: {status}: {stderr}")]
    Command {
        /// Program and arguments.
        command: String,
        /// Exit status as text.
        status: String,
        /// Its standard error, trimmed.
        stderr: String,
    },
    /// Text of a tool could not be understood.
    #[error("{what}: cannot parse {line:?}: {reason}")]
    Parse {
        /// Where the text came from.
        what: String,
        /// The offending line.
        line: String,
        /// What is wrong with it.
        reason: String,
    },
    /// None of the programs needed is installed.
    #[error("none of {0} is installed")]
    NoProgram(String),
}

impl Error {
    /// The errno the kernel gave, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Kernel { errno, .. } => Some(*errno),
            Error::Io { error, .. } => error.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    /// Whether the object to act on does not exist (so that a removal has nothing left to do).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::LinkNotFound(_))
            || matches!(
                self.errno(),
                Some(Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO)
            )
    }

    /// Whether a program could not be started because it is not there.
    pub fn is_missing_program(&self) -> bool {
        matches!(self, Error::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Error::Io { what: what.into(), error }
    }

    pub(crate) fn errno_of(what: impl Into<String>, errno: Errno) -> Self {
        Error::Kernel { what: what.into(), errno, detail: None }
    }
}

/// The errors of an operation that goes on after a failure: teardown, or the application of a difference.
///
/// Never empty when it is returned as an error.
#[derive(Debug, Default)]
pub struct NetcfgErrors(Vec<Error>);

impl NetcfgErrors {
    /// No error yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records the error of `result`, if it is one, and hands out the value otherwise.
    pub fn check<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.push(error);
                None
            }
        }
    }

    /// Records all errors of `result`.
    pub fn check_all<T>(&mut self, result: Result<T, NetcfgErrors>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(errors) => {
                self.0.extend(errors.0);
                None
            }
        }
    }

    /// Records one error.
    pub fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// `Ok(value)` if nothing was recorded.
    pub fn finish<T>(self, value: T) -> Result<T, NetcfgErrors> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// The recorded errors in the order they happened.
    pub fn errors(&self) -> &[Error] {
        &self.0
    }
}

impl From<Error> for NetcfgErrors {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for NetcfgErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NetcfgErrors {}
