//! What an explanation consists of.

use serde::Serialize;

/// How it ends. The order is that in which one outweighs another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Allowed,
    /// By all that could be asked it is allowed, and somebody could not be asked.
    Unknown,
    Denied,
    Broken,
}

/// What a finding says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    Ok,
    /// Worth knowing; it decides nothing.
    Note,
    /// It could not be looked at.
    Unknown,
    /// Policy says no.
    Denied,
    /// It is not as it should be.
    Broken,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What that was.
    pub(super) check: String,
    pub(super) result: Mark,
    pub(super) detail: String,
    /// Particulars, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) more: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
    /// It may be of a change that is under way, so that a moment later it is gone.
    #[serde(skip)]
    pub(super) may_pass: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Explanation {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) packet: String,
    pub(super) verdict: Verdict,
    /// The finding that decides, in one line.
    pub(super) reason: String,
    pub(super) findings: Vec<Finding>,
}

impl Mark {
    /// What it alone makes of the whole.
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Ok | Self::Note => Verdict::Allowed,
            Self::Unknown => Verdict::Unknown,
            Self::Denied => Verdict::Denied,
            Self::Broken => Verdict::Broken,
        }
    }
}

impl Verdict {
    /// The process's exit code.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Allowed => 0,
            Self::Denied => 1,
            Self::Unknown | Self::Broken => 2,
        }
    }
}

impl Finding {
    pub(super) fn new(check: impl Into<String>, result: Mark, detail: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            result,
            detail: detail.into(),
            more: Vec::new(),
            advice: None,
            may_pass: false,
        }
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// A difference between what is wanted and what is there.
    pub(super) fn differs(self, advice: impl Into<String>) -> Self {
        Self { may_pass: true, ..self.advise(advice) }
    }

    pub(super) fn with(mut self, more: Vec<String>) -> Self {
        self.more = more;
        self
    }
}

impl Explanation {
    /// Whether it may be another one a moment later.
    pub(super) fn may_pass(&self) -> bool {
        self.findings.iter().any(|finding| finding.may_pass)
    }
}

/// The verdict of several findings.
pub(super) fn verdict<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Verdict {
    findings.into_iter().map(|finding| finding.result.verdict()).max().unwrap_or(Verdict::Allowed)
}
