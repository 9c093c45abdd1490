//! One error type for the whole stack.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A result of the stack.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in classes that a program can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration or an argument is wrong, whatever state the node is in.
    Invalid,
    /// The thing asked for doesn't exist.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// Bytes from a peer or a file are not what they claim to be.
    Malformed,
    /// A signature, key or passphrase is wrong.
    Unauthenticated,
    /// The other side doesn't want to.
    Refused,
    /// Nobody answers there.
    Unreachable,
    /// The link, store or node has been closed.
    Closed,
    /// It takes a node that is started, and this one isn't.
    NotStarted,
    /// It took too long.
    Timeout,
    /// A port, a file or a store is used by another program.
    InUse,
    /// The store has no room.
    Full,
    /// The store failed.
    Storage,
    /// A row of the store is damaged: what depends on it fails, everything else goes on.
    Damaged,
    /// A bound of this node is reached; the input was not accepted.
    Overloaded,
    /// Longer than its limit.
    TooLarge,
    /// Made by a version that this one doesn't understand.
    UnsupportedVersion,
    /// The operating system refuses what every program may expect: a thread, randomness, a process.
    System,
    /// A bug in Peerloom or in an implementation: nothing outside this program can cause it.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::Invalid,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Malformed,
        Self::Unauthenticated,
        Self::Refused,
        Self::Unreachable,
        Self::Closed,
        Self::NotStarted,
        Self::Timeout,
        Self::InUse,
        Self::Full,
        Self::Storage,
        Self::Damaged,
        Self::Overloaded,
        Self::TooLarge,
        Self::UnsupportedVersion,
        Self::System,
        Self::Internal,
    ];
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// No: the same call fails again.
    No,
    /// Yes, unchanged, after a while.
    Later,
    /// Yes, after a change that the message names.
    AfterChange,
}

/// An error: its kind, whether a retry helps, where it happened, and what to do.
///
/// ```
/// use peerloom_core::{Error, ErrorKind, Retry};
///
/// fn listen(port: u16) -> Result<(), Error> {
///     let cause = std::io::Error::from(std::io::ErrorKind::AddrInUse);
///     let message = "another program uses this port; stop it, or set transport.listen to another one";
///     Err(Error::new(ErrorKind::InUse, "tcp", "listen", message).with_context("port", port).with_source(cause))
/// }
///
/// let error = listen(4433).expect_err("the port is taken");
/// // Programs act on the kind and the retry; people read the message; logs show everything.
/// assert_eq!((error.kind(), error.retryable()), (ErrorKind::InUse, Retry::AfterChange));
/// assert!(error.to_string().starts_with("tcp: listen: another program uses this port"));
/// assert_eq!(error.context().collect::<Vec<_>>(), [("port", "4433")]);
/// assert!(format!("{error:?}").contains("port=4433"));
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    component: Cow<'static, str>,
    operation: Cow<'static, str>,
    message: String,
    context: Vec<(Cow<'static, str>, String)>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `component` while it did `operation`; `message` says what to do about it.
    ///
    /// The kind decides whether a retry helps; [`Error::with_retry`] overrides that.
    pub fn new(
        kind: ErrorKind,
        component: impl Into<Cow<'static, str>>,
        operation: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        use ErrorKind as K;
        let retry = match kind {
            K::Unreachable | K::Closed | K::Timeout | K::Overloaded | K::System => Retry::Later,
            K::Full | K::InUse | K::UnsupportedVersion | K::Refused | K::Storage | K::Damaged | K::NotStarted => {
                Retry::AfterChange
            }
            _ => Retry::No,
        };
        Self(Box::new(Inner {
            kind,
            retry,
            component: component.into(),
            operation: operation.into(),
            message: message.into(),
            context: Vec::new(),
            source: None,
        }))
    }

    /// Sets whether a retry helps.
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Adds a value that says which thing failed, such as a device or an address: for logs and programs. People read
    /// the message alone, so what they need stands there, too. Never a secret.
    pub fn with_context(mut self, key: impl Into<Cow<'static, str>>, value: impl fmt::Display) -> Self {
        self.0.context.push((key.into(), value.to_string()));
        self
    }

    /// Adds what caused it.
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help.
    pub fn retryable(&self) -> Retry {
        self.0.retry
    }

    /// The part of the stack that failed.
    pub fn component(&self) -> &str {
        &self.0.component
    }

    /// What it was doing.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// Which thing failed: keys with their values, in the order in which they were added.
    pub fn context(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.context.iter().map(|(key, value)| (key.as_ref(), value.as_str()))
    }

    /// What happened and what to do about it, without the cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The message with its cause, for people: without component and operation, the causes' either.
    pub fn for_people(&self) -> String {
        let cause = self.0.source.as_ref().map(|cause| match cause.downcast_ref::<Self>() {
            Some(cause) => cause.for_people(),
            None => cause.to_string(),
        });
        cause.map_or_else(|| self.0.message.clone(), |cause| format!("{} ({cause})", self.0.message))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { component, operation, message, source, .. } = &*self.0;
        write!(f, "{component}: {operation}: {message}")?;
        match source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}: {self}", self.0.kind, self.0.retry)?;
        self.context().try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as _)
    }
}

impl From<peerloom_wire::DecodeError> for Error {
    fn from(error: peerloom_wire::DecodeError) -> Self {
        let kind = match error {
            peerloom_wire::DecodeError::UnsupportedVersion { .. } => ErrorKind::UnsupportedVersion,
            peerloom_wire::DecodeError::TooLong { .. } | peerloom_wire::DecodeError::TooMany { .. } => {
                ErrorKind::TooLarge
            }
            _ => ErrorKind::Malformed,
        };
        Self::new(kind, "wire", "decode", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed() {
        // The last one counts those before it.
        for (number, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number, "{kind:?}");
        }
        assert_eq!(ErrorKind::Internal as usize + 1, ErrorKind::ALL.len());
    }

    #[test]
    fn people_read_messages_without_the_program_s_parts() {
        let cause = Error::new(ErrorKind::Storage, "store", "read", "the disk fails").with_source(fmt::Error);
        let error = Error::new(ErrorKind::Internal, "engine", "open", "no node can be made").with_source(cause);
        assert_eq!(error.for_people(), format!("no node can be made (the disk fails ({}))", fmt::Error));
        assert!(error.to_string().starts_with("engine: open: no node can be made (store: read: the disk fails"));
    }
}
