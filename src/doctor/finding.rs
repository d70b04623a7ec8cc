//! What a check has found.

use serde::Serialize;

/// How bad it is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Not looked at; what was seen says why.
    Skipped,
    /// Works, but not as well as it could, or not for ever.
    Warning,
    /// Keeps Selvedge from working.
    Problem,
}

impl Severity {
    /// As tables show it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The check: a word out of a fixed set, for programs.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub seen: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, severity: Severity::Ok, seen: seen.into(), remedy: None }
    }

    /// Not looked at, and why.
    #[must_use]
    pub fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, severity: Severity::Skipped, seen: why.into(), remedy: None }
    }

    /// To be looked at.
    #[must_use]
    pub fn warning(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (seen, remedy) = (seen.into(), Some(remedy.into()));
        Self { check, severity: Severity::Warning, seen, remedy }
    }

    /// To be put right.
    #[must_use]
    pub fn problem(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, ..Self::warning(check, seen, remedy) }
    }
}

/// The first few names, and how many more there are.
pub(super) fn some(names: impl IntoIterator<Item = impl Into<String>>) -> String {
    /// Most that are listed.
    const NAMES: usize = 5;
    let mut names = names.into_iter().map(Into::into);
    let mut first: Vec<String> = names.by_ref().take(NAMES).collect();
    let more = names.count();
    first.extend((more > 0).then(|| format!("and {more} more")));
    first.join(", ")
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version that looked.
    pub version: &'static str,
    /// Whether Selvedge has been on this node: its checks are stricter then.
    pub installed: bool,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// Lines for config.toml with the ranges that the cluster was found to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested_config: Option<String>,
}

impl Report {
    /// How many findings are of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Whether something has to be put right.
    #[must_use]
    pub fn has_problem(&self) -> bool {
        self.count(Severity::Problem) > 0
    }
}
