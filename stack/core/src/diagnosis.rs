//! What a layer finds out about the network this machine is in.

use serde::{Deserialize, Serialize};

/// One answer to the question what works here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// What was looked at, such as "STUN".
    pub check: String,
    /// How it stands.
    pub status: DiagnosticStatus,
    /// What was seen.
    pub detail: String,
    /// What to do about it; empty where there is nothing to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// How a [`Diagnostic`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiagnosticStatus {
    /// It works.
    Good,
    /// It works, or could, with a limit worth knowing.
    Note,
    /// It doesn't work.
    Bad,
}

impl Diagnostic {
    /// Something that works.
    pub fn good(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.into(), status: DiagnosticStatus::Good, detail: detail.into(), remedy: String::new() }
    }

    /// Something worth knowing, and what may be done.
    pub fn note(check: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check: check.into(), status: DiagnosticStatus::Note, detail: detail.into(), remedy: remedy.into() }
    }

    /// Something that doesn't work, and what to do.
    pub fn bad(check: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check: check.into(), status: DiagnosticStatus::Bad, detail: detail.into(), remedy: remedy.into() }
    }
}
