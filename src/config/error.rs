//! What is wrong with a configuration, for the person who wrote it.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file, a flag or an environment variable says something that cannot be.
    #[error("{}", report(path, *absent, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// True when there is no such file.
        absent: bool,
        /// All that was found, in the order of the keys.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    pub(super) fn invalid(path: &Path, problems: Vec<Problem>) -> Self {
        Self::Invalid { path: path.into(), absent: false, problems }
    }

    /// The same, of a file that does not exist.
    pub(super) fn without_file(self) -> Self {
        match self {
            Self::Invalid { path, problems, .. } => Self::Invalid { path, absent: true, problems },
            other => other,
        }
    }

    /// Whether there is no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Invalid { absent: true, .. })
    }

    /// The problems found; none when the file could not be read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } => problems,
            Self::Read { .. } => &[],
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Line in the file, from 1; none for a flag, an environment variable or a missing key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The key, or the flag and the environment variable.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.problem)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

fn report(path: &Path, absent: bool, problems: &[Problem]) -> String {
    let mut text = match absent {
        true => format!("there is no {}, and without it:", path.display()),
        false => format!("{}:", path.display()),
    };
    for problem in problems {
        write!(text, "\n  {problem}").expect("a String takes any text");
    }
    text
}
