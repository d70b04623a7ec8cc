//! Errors as the CNI specification wants them: a number, a sentence, and what is behind it.

use serde::Serialize;

use super::{attachment, gateway, hostport, lease, node, wiring};
use crate::kernel::{netlink, netns, sysctl};

/// What goes to standard output when a verb fails (CNI specification 1.1.0, "Error").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{msg}{}{details}", if .details.is_empty() { "" } else { ": " })]
#[serde(rename_all = "camelCase")]
pub struct Error {
    /// The number.
    #[serde(serialize_with = "number")]
    pub code: Code,
    /// What failed.
    pub msg: String,
    /// Why, and what to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// Numbers of the specification, and ours from 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The version asked for is not one of ours.
    IncompatibleVersion = 1,
    /// The container is not known or its namespace is gone; nothing is left to clean up.
    ContainerUnknown = 3,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// The input is no JSON, or has values of other types than it should.
    Undecodable = 6,
    /// The configuration lacks something or makes no sense.
    InvalidConfig = 7,
    /// It may work later.
    TryAgain = 11,
    /// STATUS: pods can't be added now.
    NotAvailable = 50,
    /// All addresses of the node's pod CIDRs are in use.
    NoAddresses = 100,
    /// The guard or the unreachable routes could not be put in place.
    Unguarded = 101,
    /// CHECK found something.
    NotAsAdded = 102,
    /// The interface has been added already.
    AlreadyAdded = 103,
    /// The kernel refused a change.
    Kernel = 104,
    /// A port of the node leads to another pod, or is the tunnel's.
    HostPortTaken = 105,
}

fn number<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(*code as u32)
}

impl Error {
    /// An error with its reason.
    pub fn new(code: Code, msg: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self { code, msg: msg.into(), details: reason.to_string() }
    }
}

impl From<attachment::InvalidName> for Error {
    fn from(error: attachment::InvalidName) -> Self {
        Self::new(Code::InvalidEnvironment, "a name is not allowed", error)
    }
}

impl From<node::Error> for Error {
    fn from(error: node::Error) -> Self {
        let code = match error {
            node::Error::Missing(_) => Code::TryAgain,
            node::Error::Io { .. } => Code::Io,
            node::Error::Json { .. } | node::Error::Invalid { .. } => Code::InvalidConfig,
        };
        Self::new(code, "this node is not ready for pods", error)
    }
}

impl From<netns::Error> for Error {
    fn from(error: netns::Error) -> Self {
        let code = match error {
            netns::Error::Open { .. } => Code::ContainerUnknown,
            netns::Error::NotNetwork(_) => Code::InvalidEnvironment,
            netns::Error::Enter { .. } | netns::Error::Make { .. } => Code::Kernel,
        };
        Self::new(code, "the pod's network namespace is of no use", error)
    }
}

impl From<netlink::Error> for Error {
    fn from(error: netlink::Error) -> Self {
        Self::new(Code::Kernel, "the kernel refused a change", error)
    }
}

impl From<sysctl::Error> for Error {
    fn from(error: sysctl::Error) -> Self {
        Self::new(Code::Kernel, "a sysctl could not be set", error)
    }
}

impl From<lease::Error> for Error {
    fn from(error: lease::Error) -> Self {
        let (code, msg) = match error {
            lease::Error::NoAddresses { .. } => (Code::NoAddresses, "no addresses left"),
            lease::Error::Exists(_) => (Code::AlreadyAdded, "the interface has been added already"),
            lease::Error::HostPortTaken { .. } => (Code::HostPortTaken, "the host port is in use"),
            lease::Error::Busy { .. } => (Code::TryAgain, "the leases are locked"),
            lease::Error::Io { .. } | lease::Error::Json { .. } => (Code::Io, "the leases can't be used"),
        };
        Self::new(code, msg, error)
    }
}

impl From<wiring::Error> for Error {
    fn from(error: wiring::Error) -> Self {
        match error {
            wiring::Error::Netlink(error) => error.into(),
            wiring::Error::Namespace(error) => error.into(),
            wiring::Error::Sysctl(_) | wiring::Error::Spoof(_) => {
                Self::new(Code::Kernel, "the kernel refused a change", error)
            }
            wiring::Error::Unsettled(_) => Self::new(Code::TryAgain, "the pod is not ready in time", error),
        }
    }
}

impl From<hostport::Error> for Error {
    fn from(error: hostport::Error) -> Self {
        match error {
            hostport::Error::Lease(error) => error.into(),
            hostport::Error::Netlink(error) => error.into(),
            error => Self::new(Code::Kernel, "the kernel refused a change", error),
        }
    }
}

impl From<gateway::Error> for Error {
    fn from(error: gateway::Error) -> Self {
        match error {
            gateway::Error::Netlink(error) => error.into(),
            gateway::Error::Sysctl(error) => error.into(),
        }
    }
}
