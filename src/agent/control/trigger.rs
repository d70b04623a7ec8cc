//! What can make a controller run.

/// Something that changed. A source posts one only when the part of the state that it names is different from before:
/// another Node's heartbeat posts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Trigger {
    /// This node's own object: UID, pod CIDRs, addresses or zone; or that it is there at all.
    OwnNode,
    /// The annotations of this node's own object.
    OwnAnnotations,
    /// Taints and the network condition of this node's own object.
    OwnAdmission,
    /// What other Nodes publish, or what a GET has confirmed of them.
    Nodes,
    /// This node's own keys.
    Keys,
    /// The rotation of this node's keys may go on.
    Rotation,
    /// What an operator asks about this node's keys.
    KeyRequest,
    /// KeyRevocation objects, or whether the API server serves them.
    KeyRevocations,
    /// The keys that are revoked, and the Nodes that are barred.
    Revoked,
    /// The peers that are believed.
    Peers,
    /// The addresses of other nodes, peers or not.
    MemberAddresses,
    /// The addresses of other nodes that the egress table knows.
    EgressMembers,
    /// The TUN device and the addresses on it.
    TunnelLink,
    /// Devices that are not ours, their addresses and MTUs.
    Underlay,
    /// Devices of the pods.
    PodLinks,
    /// Somebody else changed routes.
    Routes,
    /// Somebody else changed routing rules.
    Rules,
    /// Somebody else changed the guard's nftables table.
    GuardTable,
    /// Somebody else changed the egress table.
    EgressTable,
    /// Somebody else changed a chain by which iptables forwards.
    Forwarding,
    /// Somebody else changed the tables of the pods' ports.
    PodTables,
    /// Services or EndpointSlices.
    Services,
    /// ServiceCIDR objects, or whether the API server serves them.
    ServiceCidrs,
    /// The ranges of cluster IPs that are in force.
    Ranges,
    /// Somebody else changed the table of Services.
    ServiceTable,
    /// The ports of Services that a process holds: health checks, with their counts of endpoints, and node ports on loopback.
    ServicePorts,
    /// Whether this agent serves Services, and whether another proxy runs on this node.
    Role,
    /// What there is to report about Services.
    ServiceReports,
    /// `node.json`, which the CNI plugin and the wiring of pods go by.
    NodeFile,
    /// The connection to the tunnel's control API began or ended.
    TunnelSession,
    /// A controller reached its desired state, or lost it.
    Status,
    /// The API server answers again.
    ApiServer,
    /// Time for a slow comparison with the kernel.
    Resync,
}

impl Trigger {
    /// Whether the desired state may be another one than before. The others are occasions to try again.
    #[must_use]
    pub(crate) const fn is_change(self) -> bool {
        !matches!(self, Self::Rotation | Self::Status | Self::ApiServer | Self::Resync)
    }
}

/// A set of triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Triggers(u64);

impl Triggers {
    /// All of them, as when a controller runs for the first time.
    pub(crate) const ALL: Self = Self(u64::MAX);

    /// The set of `triggers`.
    #[must_use]
    pub(crate) const fn of(triggers: &[Trigger]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < triggers.len() {
            bits |= 1u64 << triggers[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// Whether `trigger` is in the set.
    #[must_use]
    pub(crate) const fn has(self, trigger: Trigger) -> bool {
        self.0 & 1u64 << trigger as u8 != 0
    }

    /// Adds `trigger`.
    pub(crate) const fn insert(&mut self, trigger: Trigger) {
        self.0 |= 1u64 << trigger as u8;
    }
}
