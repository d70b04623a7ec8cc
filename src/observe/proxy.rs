//! Metrics of serving Services, under the names that kube-proxy has for the same: dashboards and alerts go on working.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// One label: which of a Service's policies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Policy {
    /// `internal` or `external`.
    pub traffic_policy: String,
}

/// Cheap to clone: all clones are one.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    /// From the change that caused an EndpointSlice to be written to the update of the nftables table.
    pub network_programming_seconds: Histogram,
    /// Of a run that changes the kernel's table.
    pub sync_seconds: Histogram,
    /// EndpointSlices that have changed.
    pub endpoint_changes: Counter,
    /// Services that have changed.
    pub service_changes: Counter,
    /// When the table was last right, in seconds since 1970.
    pub last_sync: Gauge,
    /// Services of which a policy `Local` has packets dropped on this node, by policy.
    pub no_local_endpoints: Family<Policy, Gauge>,
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        // From 1 ms to a minute and from 0.1 ms to 13 s.
        let (wide, narrow) = (exponential_buckets(0.001, 2.0, 17), exponential_buckets(0.000_1, 2.0, 18));
        Self {
            network_programming_seconds: Histogram::new(wide),
            sync_seconds: Histogram::new(narrow),
            endpoint_changes: Counter::default(),
            service_changes: Counter::default(),
            last_sync: Gauge::default(),
            no_local_endpoints: Family::default(),
        }
    }
}

impl ProxyMetrics {
    /// Registers them; the registry has no prefix.
    pub(super) fn register(&self, registry: &mut Registry) {
        let to = registry.sub_registry_with_prefix("kubeproxy");
        to.register_with_unit(
            "network_programming_duration",
            "Time from the change of a Pod or Service, as annotated on the EndpointSlice, to the update of the nftables table",
            Unit::Seconds,
            self.network_programming_seconds.clone(),
        );
        to.register_with_unit(
            "sync_proxy_rules_duration",
            "Duration of a run that brings the kernel's table of Services up to date",
            Unit::Seconds,
            self.sync_seconds.clone(),
        );
        to.register(
            "sync_proxy_rules_endpoint_changes",
            "EndpointSlices that have changed",
            self.endpoint_changes.clone(),
        );
        to.register(
            "sync_proxy_rules_service_changes",
            "Services that have changed",
            self.service_changes.clone(),
        );
        to.register_with_unit(
            "sync_proxy_rules_last_timestamp",
            "When the kernel's table of Services was last right, since 1970",
            Unit::Seconds,
            self.last_sync.clone(),
        );
        to.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Services with a policy Local that have endpoints, but none on this node",
            self.no_local_endpoints.clone(),
        );
    }
}
