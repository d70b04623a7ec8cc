//! The measured figures. Their JSON form is what `--output json` prints.

use serde::{Deserialize, Serialize};

pub use super::change::Change;
pub use super::cold::Cold;
pub use super::connect::Connect;
pub use super::follow::Follow;
pub use super::rate::Rate;
pub use super::resync::Resync;
pub use super::start::Start;
pub use super::stream::Stream;

/// Everything, or what one part has measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outcome {
    /// The machine.
    pub machine: Machine,
    /// Whole tables, by number of Services.
    pub cold: Vec<Cold>,
    /// Single changes, by number of Services.
    pub change: Vec<Change>,
    /// Comparisons without a difference, by number of Services.
    pub resync: Vec<Resync>,
    /// First packets.
    pub connect: Option<Connect>,
    /// Streams.
    pub stream: Option<Stream>,
    /// The programs, by number of Services.
    pub clusters: Vec<InCluster>,
    /// What the project wants, beside what was measured.
    pub goals: Vec<Goal>,
}

/// What was measured of the programs with one number of Services.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InCluster {
    /// How many Services.
    pub services: u32,
    /// Starts, by program.
    pub starts: Vec<Start>,
    /// Many changes, Selvedge's agent alone.
    pub rate: Option<Rate>,
    /// From a write to the first packet, by program.
    pub follow: Vec<Follow>,
}

/// A goal and what was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Goal {
    /// What is wanted.
    pub goal: String,
    /// What was measured.
    pub measured: String,
    /// Whether that is as wanted.
    pub met: bool,
}

/// Where it was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Load average before the first measurement.
    pub load: String,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            load: read("/proc/loadavg"),
        }
    }
}

impl Outcome {
    /// Adds what another part has measured.
    pub fn add(&mut self, other: Self) {
        self.cold.extend(other.cold);
        self.change.extend(other.change);
        self.resync.extend(other.resync);
        self.connect = self.connect.take().or(other.connect);
        self.stream = self.stream.take().or(other.stream);
        self.clusters.extend(other.clusters);
    }
}
