//! The names of what the agent keeps at its desired state.

/// What the agent keeps at its desired state, in the order in which messages list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Name {
    /// The nftables table that fails closed.
    Guard,
    /// The watches on the API server; while they are broken, what was seen last holds.
    Watches,
    /// This node's own object and keys.
    OwnNode,
    /// GETs of whole Nodes, which confirm what they publish.
    Confirmation,
    /// Whom of the other nodes to believe, and the record of it on disk.
    Mesh,
    /// The ranges of cluster IPs.
    ServiceRanges,
    /// Addresses, MTU and state of the TUN device.
    Link,
    /// Routes and rules.
    Routes,
    /// Sysctls.
    Sysctls,
    /// The tunnel's configuration.
    Tunnel,
    /// The rotation of this node's keys.
    Rotation,
    /// The keys that operators have revoked, and the record of them on disk.
    Revocations,
    /// What an operator asks about this node's keys through the API, and the answers.
    KeyRequests,
    /// When this node's key is rotated without request.
    KeyPolicy,
    /// The age of this node's key.
    KeyAge,
    /// Masquerading, and what passes between pods and member nodes.
    Egress,
    /// Which packets go to which endpoints of which Service.
    Services,
    /// What the holder of Services' ports holds and answers.
    Ports,
    /// Stale rules of a stopped kube-proxy.
    KubeProxy,
    /// Events about what Services do not get.
    ServiceEvents,
    /// Accept rules for pods in iptables' chain for what is forwarded.
    Forwarding,
    /// The node's side of running pods: bridge, ports, their rules against spoofing.
    Wiring,
    /// What the CNI plugin needs to know, and the plugin itself.
    Pods,
    /// This node's annotations.
    Annotations,
    /// The condition and the taint that hold pods back from a new node.
    Admission,
}

impl Name {
    /// As in metrics and messages.
    #[must_use]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Watches => "watches",
            Self::OwnNode => "own-node",
            Self::Confirmation => "confirmation",
            Self::Mesh => "mesh",
            Self::ServiceRanges => "service-ranges",
            Self::Link => "link",
            Self::Routes => "routes",
            Self::Sysctls => "sysctls",
            Self::Tunnel => "tunnel",
            Self::Rotation => "key-rotation",
            Self::KeyRequests => "key-requests",
            Self::Revocations => "revocations",
            Self::KeyPolicy => "key-policy",
            Self::KeyAge => "key-age",
            Self::Egress => "egress",
            Self::Services => "services",
            Self::Ports => "ports",
            Self::KubeProxy => "kube-proxy",
            Self::ServiceEvents => "service-events",
            Self::Forwarding => "forwarding",
            Self::Wiring => "wiring",
            Self::Pods => "pods",
            Self::Annotations => "annotations",
            Self::Admission => "admission",
        }
    }
}
