//! What configures a tunnel: the control API, UAPI, and the engine behind both.
//!
//! The [`Engine`] is the one place that changes a device. A change is tried on the data plane, which takes all
//! of it or nothing, and then kept: the agent's configuration in a file (which holds no key), a standalone one
//! in the parent's memory. So a worker process that starts again has it back at once.

mod engine;
mod keep;
mod link;
mod plane;
mod resolve;
mod routes;
mod wire;

pub use engine::{Engine, Start};
pub use plane::PlaneEnd;
pub use routes::router;

use crate::tunnel::device::config::ConfigError;
use crate::tunnel::io::udp::UdpError;

/// Why a change was refused; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The tunnel is configured another way.
    #[error("{0}")]
    WrongMode(&'static str),
    /// There is no configuration to change.
    #[error("there is no configuration yet; PUT /v1/config first")]
    NoConfig,
    /// The request contradicts itself.
    #[error("{0}")]
    Invalid(String),
    /// The device refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key cannot be had.
    #[error("own key of epoch {epoch}: {source}")]
    Key {
        /// Its epoch.
        epoch: u64,
        /// What the store said.
        source: selvedge_keys::StoreError,
    },
    /// The UDP port cannot be had.
    #[error("{source}{remedy}")]
    Udp {
        /// What failed.
        source: UdpError,
        /// What to do, after a semicolon.
        remedy: &'static str,
    },
    /// The system refused something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data plane cannot be made anew: the device is not yet handed over by the tunnel process before.
    #[error("the device is being handed over from the tunnel process before; try once more")]
    HandingOver,
    /// The data plane has ended; it is being started again.
    #[error("the data plane is starting again; try once more")]
    Stopped,
}
