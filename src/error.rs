//! The one error type of the crate, and what each kind means to a caller of the command.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Everything that can go wrong, by what the user has to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a read, a write or a rename.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder that was being used.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is damaged, of the wrong kind, or does not fit the others.
    #[error("{}: {message}", path.display())]
    File {
        /// The file that is at fault.
        path: PathBuf,
        /// What was expected and what was found, with the tensor or key by name.
        message: String,
    },
    /// The command line or the recipe asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A check that the user asked for did not hold.
    #[error("{0}")]
    Check(String),
    /// A number went wrong (a loss or gradient that is not finite).
    #[error("{0}")]
    Numeric(String),
    /// The user stopped the work; what was done so far is saved.
    #[error("stopped: {0}")]
    Interrupted(String),
}

/// The crate's result type.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: impl AsRef<Path>, message: impl Display) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), message: message.to_string() }
    }

    /// An [`Error::Usage`].
    pub fn usage(message: impl Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// The exit code of the command: 1 failed, 2 bad usage or recipe, 3 a check did not hold, 130 stopped by the user.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::File { .. } | Self::Numeric(_) => 1,
            Self::Usage(_) => 2,
            Self::Check(_) => 3,
            Self::Interrupted(_) => 130,
        }
    }
}

/// Adds the path to an [`std::io::Result`].
pub trait IoContext<T> {
    /// Turns the error into [`Error::Io`] about `path`.
    ///
    /// # Errors
    /// The error it was given.
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::io(path, source))
    }
}
