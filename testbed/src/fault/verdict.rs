//! What a doctor said.

use serde::{Deserialize, Serialize};

/// A report, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Verdict {
    pub(super) status: u8,
    pub(super) findings: Vec<Finding>,
    #[serde(default)]
    pub(super) unseen: Vec<Unseen>,
    #[serde(default)]
    pub(super) facts: Vec<Fact>,
}

/// Something worth knowing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fact {
    pub(super) name: String,
    pub(super) value: String,
}

/// One finding.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Finding {
    pub(super) cause: String,
    pub(super) layer: String,
    #[serde(default)]
    pub(super) subject: String,
    #[serde(default)]
    pub(super) evidence: Vec<String>,
}

/// Something that could not be seen.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Unseen {
    pub(super) what: String,
    pub(super) why: String,
}

impl Verdict {
    /// Reads a report.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn read(json: &[u8]) -> anyhow::Result<Self> {
        Ok(serde_json::from_slice(json)?)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.cause, self.layer)
    }
}
