//! What was not believed, and why.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use selvedge_keys::PublicKey;

use super::annotation::AnnotationError;

/// Something that a Node claims and that is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the Node.
    pub node: String,
    /// UID of the Node.
    pub uid: String,
    /// Why.
    pub reason: Reason,
    /// True when the Node is no peer because of it; false when only what the reason names is left out.
    pub no_peer: bool,
}

/// Why a claim is not believed. Its text says what was claimed, whose it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Two Nodes of one name were given; never from one API server.
    #[error("two Nodes go by this name; neither is believed")]
    RepeatedName,
    /// Annotations that cannot be read.
    #[error("{}", all(.0))]
    Malformed(Vec<AnnotationError>),
    /// The epoch is below the accepted one.
    #[error(
        "key epoch {claimed} is below {accepted}, which was accepted before; only a newer key is believed"
    )]
    EpochBack {
        /// The epoch claimed.
        claimed: u64,
        /// The epoch accepted.
        accepted: u64,
    },
    /// The epoch is the accepted one, but its keys are others.
    #[error("key epoch {0} was accepted with other keys; new keys need a higher epoch")]
    EpochReused(u64),
    /// A key that belongs to another Node.
    #[error("key {} belongs to {holder}", key.short())]
    KeyTaken {
        /// The key.
        key: PublicKey,
        /// The Node it was accepted of.
        holder: String,
    },
    /// A key of this node itself.
    #[error("key {} is this node's own", .0.short())]
    OwnKey(PublicKey),
    /// A key that operators have revoked.
    #[error("key {} is revoked; the node needs a new one", .0.short())]
    KeyRevoked(PublicKey),
    /// The keys of the Node were revoked, and it has not been readmitted since.
    #[error("its keys were revoked by {by}; `selvedge keys readmit --node {node}` lets it in again")]
    Barred {
        /// Its name at that time.
        node: String,
        /// Who revoked them.
        by: String,
    },
    /// A new key that another Node claims as well. Of two main keys neither is believed.
    #[error("key {} is claimed by {other} too and not believed", key.short())]
    KeyDisputed {
        /// The key.
        key: PublicKey,
        /// One of the other claimants.
        other: String,
    },
    /// A pod prefix that lies in none of the cluster's.
    #[error("pod CIDR {0} is outside clusterPodCIDRs")]
    CidrOutside(IpNet),
    /// A pod prefix that is not in `spec.podCIDRs`, or not all of them.
    #[error("pod CIDRs {} are not those of spec.podCIDRs", nets(.0))]
    CidrsUnconfirmed(Vec<IpNet>),
    /// A pod prefix that shares addresses with one of another Node.
    #[error("pod CIDR {prefix} overlaps one of {holder}")]
    CidrTaken {
        /// The prefix.
        prefix: IpNet,
        /// The Node whose prefix was accepted.
        holder: String,
    },
    /// A new pod prefix that shares addresses with a new one of another Node; neither is believed.
    #[error("pod CIDR {prefix} overlaps one that {other} claims too; neither is believed")]
    CidrDisputed {
        /// The prefix.
        prefix: IpNet,
        /// One of the other claimants.
        other: String,
    },
    /// An endpoint at which no node can be.
    #[error("endpoint {0} is a pod or Service address")]
    EndpointInside(SocketAddr),
    /// A node address at which no node can be.
    #[error("node address {0} is a pod or Service address")]
    AddressInside(IpAddr),
    /// Node addresses that `status.addresses` does not hold.
    #[error("node addresses {} are not those of status.addresses", addresses(.0))]
    AddressesUnconfirmed(Vec<IpAddr>),
    /// A node address that several Nodes have.
    #[error("node address {address} belongs to {other} too; pods here cannot reach it")]
    AddressShared {
        /// The address.
        address: IpAddr,
        /// One of the others.
        other: String,
    },
}

impl Reason {
    /// The other Node that has what is claimed, or claims it too: what it has is worth another look.
    #[must_use]
    pub fn other(&self) -> Option<&str> {
        match self {
            Self::KeyTaken { holder: other, .. }
            | Self::KeyDisputed { other, .. }
            | Self::CidrTaken { holder: other, .. }
            | Self::CidrDisputed { other, .. }
            | Self::AddressShared { other, .. } => Some(other),
            _ => None,
        }
    }

    /// A short name for metrics' labels and Events' reasons.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::RepeatedName => "RepeatedName",
            Self::Malformed(_) => "MalformedAnnotation",
            Self::EpochBack { .. } => "EpochBack",
            Self::EpochReused(_) => "EpochReused",
            Self::KeyTaken { .. } => "KeyTaken",
            Self::OwnKey(_) => "OwnKey",
            Self::KeyRevoked(_) => "KeyRevoked",
            Self::Barred { .. } => "NodeBarred",
            Self::KeyDisputed { .. } => "KeyDisputed",
            Self::CidrOutside(_) => "CIDROutside",
            Self::CidrsUnconfirmed(_) => "CIDRsUnconfirmed",
            Self::CidrTaken { .. } => "CIDRTaken",
            Self::CidrDisputed { .. } => "CIDRDisputed",
            Self::EndpointInside(_) => "EndpointInside",
            Self::AddressInside(_) => "AddressInside",
            Self::AddressesUnconfirmed(_) => "AddressesUnconfirmed",
            Self::AddressShared { .. } => "AddressShared",
        }
    }
}

fn all(errors: &[AnnotationError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn nets(nets: &[IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn addresses(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels end up in Events' reasons, which have to be CamelCase words of at most 128 characters.
    #[test]
    fn texts_are_for_people_and_labels_for_machines() {
        let key = selvedge_keys::PrivateKey::from_bytes([1; 32]).public_key();
        let (net, address) = ("10.0.0.0/24".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let other = String::from("node-b");
        for (reason, text) in [
            (Reason::EpochBack { claimed: 1, accepted: 2 }, "key epoch 1 is below 2"),
            (Reason::KeyTaken { key, holder: other.clone() }, "belongs to node-b"),
            (Reason::CidrTaken { prefix: net, holder: other.clone() }, "10.0.0.0/24 overlaps one of node-b"),
            (Reason::CidrsUnconfirmed(vec![net]), "10.0.0.0/24 are not those of spec.podCIDRs"),
            (Reason::AddressShared { address, other }, "192.0.2.1 belongs to node-b too"),
        ] {
            assert!(reason.to_string().contains(text), "{reason}");
            assert!(reason.label().chars().all(|c| c.is_ascii_alphanumeric()), "{}", reason.label());
        }
    }
}
