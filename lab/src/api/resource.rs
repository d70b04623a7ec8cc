//! The table of resources: all that the server knows about a kind of object.

use selvedge::resource;

/// One kind of object.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Version, the only one of its group.
    pub version: &'static str,
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

/// The version of most groups.
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

/// selvedge.dev/v1alpha1 KeyRotation. A real API server has it by a CustomResourceDefinition.
pub static KEY_ROTATIONS: Resource =
    of(resource::GROUP, "KeyRotation", "keyrotations", &[]).cluster().with_status().at(resource::VERSION);

/// selvedge.dev/v1alpha1 KeyRevocation, likewise.
pub static KEY_REVOCATIONS: Resource =
    of(resource::GROUP, "KeyRevocation", "keyrevocations", &[]).cluster().at(resource::VERSION);

/// All of them, grouped as discovery lists them.
pub static ALL: [&Resource; 16] = [
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
    &KEY_ROTATIONS,
    &KEY_REVOCATIONS,
];

impl Resource {
    /// `v1`, or `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
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

    /// The resource of that group and version with that plural name.
    #[must_use]
    pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
        let mut of_version = of_group(group).filter(|resource| resource.version == version);
        of_version.find(|resource| resource.plural == plural)
    }

    const fn at(mut self, version: &'static str) -> Self {
        self.version = version;
        self
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

/// The resources of a group.
pub(super) fn of_group(group: &str) -> impl Iterator<Item = &'static Resource> {
    ALL.into_iter().filter(move |resource| resource.group == group)
}

/// The version of a group.
pub(super) fn version_of(group: &str) -> &'static str {
    of_group(group).next().map_or(VERSION, |resource| resource.version)
}

const fn of(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
) -> Resource {
    Resource { group, version: VERSION, kind, plural, short, namespaced: true, status: false }
}
