//! What differs between the ways to make a cluster.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use crate::config::Cni;

/// How a cluster was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// kubeadm, and what is like it.
    Kubeadm,
    /// k3s with `--flannel-backend=none --disable-network-policy`.
    K3s,
    /// kind with `disableDefaultCNI`.
    Kind,
    /// A cloud's control plane.
    Managed,
}

impl Distribution {
    /// Where the container runtime looks for plugins and configurations, where that is not the usual place.
    #[must_use]
    pub fn folders(self) -> Option<Cni> {
        (self == Self::K3s).then(|| Cni {
            bin_dir: PathBuf::from("/var/lib/rancher/k3s/data/cni"),
            conf_dir: PathBuf::from("/var/lib/rancher/k3s/agent/etc/cni/net.d"),
        })
    }

    /// As the option has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubeadm => "kubeadm",
            Self::K3s => "k3s",
            Self::Kind => "kind",
            Self::Managed => "managed",
        }
    }
}
