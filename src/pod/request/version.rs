//! Versions of the CNI specification.

use serde::Serialize;

/// The versions of the specification whose requests are taken, oldest first.
pub const VERSIONS: [Version; 3] = [Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

/// A version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Version {
    /// 0.4.0
    #[serde(rename = "0.4.0")]
    V0_4_0,
    /// 1.0.0
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// 1.1.0
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    /// The newest that we speak.
    pub const CURRENT: Self = Self::V1_1_0;

    pub(super) fn parse(text: &str) -> Option<Self> {
        VERSIONS.into_iter().find(|version| version.text() == text)
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}
