//! What fails beneath the contract: the store, and `openmls` itself.

use std::fmt;

use peerloom_core::{Error, ErrorKind};

pub(crate) type StateResult<T> = Result<T, StateError>;

/// A failure below `openmls`, in the form that its error types ask for: what was stored can't be understood,
/// or the store failed.
#[derive(Debug, Clone)]
pub(crate) struct StateError(Result<String, Error>);

impl StateError {
    pub(crate) fn damaged(what: impl fmt::Display) -> Self {
        Self(Ok(what.to_string()))
    }

    pub(crate) fn of_store(error: Error) -> Self {
        Self(Err(error))
    }

    /// The kind of the error that the caller gets: damage concerns one session, a failing store all of them.
    pub(crate) fn kind(&self) -> ErrorKind {
        self.0.as_ref().map_or_else(Error::kind, |_| ErrorKind::Damaged)
    }
}

// `openmls` compares its errors; an error of the store has no equality.
impl PartialEq for StateError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(what) => f.write_str(what),
            Err(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StateError {}

/// A store that fails.
pub(crate) fn state_failed(operation: &'static str, error: StateError) -> Error {
    Error::new(error.kind(), "mls", operation, "the session's state can't be read").with_source(error)
}

/// The library refuses what can't fail.
pub(crate) fn internal(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Internal, "mls", operation, "the MLS library refuses").with_source(error)
}
