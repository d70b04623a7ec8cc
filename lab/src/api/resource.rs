//! The table of resources: all that the server knows about a kind of object.

/// One kind of object.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Kind, as in an object's `kind`.
    pub kind: &'static str,
    /// Name in paths; also the name of its storage, so two groups can share one (events).
    pub plural: &'static str,
    /// Short names that `kubectl` accepts.
    pub short: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `status` is a subresource, out of reach of writes to the object itself.
    pub status: bool,
}

/// Every resource here has one version.
pub const VERSION: &str = "v1";

/// core/v1 Node.
pub static NODES: Resource = of("", "Node", "nodes", &["no"]).cluster().with_status();
/// core/v1 Pod.
pub static PODS: Resource = of("", "Pod", "pods", &["po"]).with_status();
/// core/v1 Service.
pub static SERVICES: Resource = of("", "Service", "services", &["svc"]).with_status();
/// core/v1 Endpoints.
pub static ENDPOINTS: Resource = of("", "Endpoints", "endpoints", &["ep"]);
/// core/v1 Namespace.
pub static NAMESPACES: Resource = of("", "Namespace", "namespaces", &["ns"]).cluster().with_status();
/// core/v1 Event.
pub static EVENTS: Resource = of("", "Event", "events", &["ev"]);
/// core/v1 ConfigMap.
pub static CONFIG_MAPS: Resource = of("", "ConfigMap", "configmaps", &["cm"]);
/// core/v1 Secret.
pub static SECRETS: Resource = of("", "Secret", "secrets", &[]);
/// core/v1 ServiceAccount.
pub static SERVICE_ACCOUNTS: Resource = of("", "ServiceAccount", "serviceaccounts", &["sa"]);
/// discovery.k8s.io/v1 EndpointSlice.
pub static ENDPOINT_SLICES: Resource = of("discovery.k8s.io", "EndpointSlice", "endpointslices", &[]);
/// networking.k8s.io/v1 NetworkPolicy.
pub static NETWORK_POLICIES: Resource =
    of("networking.k8s.io", "NetworkPolicy", "networkpolicies", &["netpol"]);
/// networking.k8s.io/v1 ServiceCIDR.
pub static SERVICE_CIDRS: Resource =
    of("networking.k8s.io", "ServiceCIDR", "servicecidrs", &[]).cluster().with_status();
/// events.k8s.io/v1 Event: another form of the same objects as [`EVENTS`].
pub static NEW_EVENTS: Resource = of("events.k8s.io", "Event", "events", &[]);
/// coordination.k8s.io/v1 Lease.
pub static LEASES: Resource = of("coordination.k8s.io", "Lease", "leases", &[]);

/// All of them, grouped as discovery lists them.
pub static ALL: [&Resource; 14] = [
    &NODES,
    &PODS,
    &SERVICES,
    &ENDPOINTS,
    &NAMESPACES,
    &EVENTS,
    &CONFIG_MAPS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &ENDPOINT_SLICES,
    &NETWORK_POLICIES,
    &SERVICE_CIDRS,
    &NEW_EVENTS,
    &LEASES,
];

impl Resource {
    /// `v1`, or `group/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { VERSION.to_owned() } else { format!("{}/{VERSION}", self.group) }
    }

    /// `nodes`, or `leases.coordination.k8s.io`: how messages name it.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The resource in whose form objects are stored: for events the core one, else itself.
    #[must_use]
    pub fn stored(&'static self) -> &'static Resource {
        if self == &NEW_EVENTS { &EVENTS } else { self }
    }

    /// The resource of that group with that plural name.
    #[must_use]
    pub fn find(group: &str, plural: &str) -> Option<&'static Resource> {
        ALL.into_iter().find(|resource| resource.group == group && resource.plural == plural)
    }

    const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    const fn with_status(mut self) -> Self {
        self.status = true;
        self
    }
}

/// The API groups other than core, in the order of the table.
pub(super) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> = ALL.iter().map(|resource| resource.group).filter(|g| !g.is_empty()).collect();
    groups.dedup();
    groups
}

const fn of(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
) -> Resource {
    Resource { group, kind, plural, short, namespaced: true, status: false }
}
