//! Every metric of the agent, in one place: name, unit, help text. OpenMetrics text, served at `/metrics`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric as _};
use prometheus_client::registry::{Registry, Unit};

use super::proxy::ProxyMetrics;
use crate::tunnel::api::{DeviceStatus, PeerState, PeerStatus};

/// One label: what was done, or why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// A word out of a fixed set.
    pub reason: String,
}

/// One label: which controller.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Controller {
    /// `guard`, `egress`, `routes`, `tunnel`, ...
    pub controller: String,
}

/// One label: how a rotation of keys ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RotationOutcome {
    /// `rotated`, `aborted` or `superseded`.
    pub outcome: String,
}

/// The agent's metrics. Cheap to clone: all clones are one.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    scrape: Arc<Scrape>,
    /// Runs, by controller.
    pub reconciles: Family<Controller, Counter>,
    /// Runs that failed, by controller.
    pub reconcile_errors: Family<Controller, Counter>,
    /// Duration of a run, by controller.
    pub reconcile_seconds: Family<Controller, Histogram>,
    /// Time from an event to the end of the run that applied it, by controller.
    pub event_seconds: Family<Controller, Histogram>,
    /// Runs that changed kernel, tunnel or API state, by controller.
    pub changes: Family<Controller, Counter>,
    /// Nodes refused now, by reason.
    pub refused_nodes: Family<Reason, Gauge>,
    /// Refusals since start, by reason.
    pub refusals: Family<Reason, Counter>,
    /// Nodes that are kept although a list lacks them.
    pub missing_nodes: Gauge,
    /// Errors of watches on the Kubernetes API.
    pub watch_errors: Counter,
    /// 1 when the node is ready for pods.
    pub ready: Gauge,
    /// Connections to node ports on loopback that were reset.
    pub loopback_resets: Counter,
    /// Epoch of the key in use.
    pub key_epoch: Gauge,
    /// When the key in use was made, in seconds since 1970.
    pub key_created: Gauge,
    /// When the cryptoperiod of the key in use ends, in seconds since 1970.
    pub key_expiry: Gauge,
    /// When the agent rotates the key in use, in seconds since 1970; 0 if it does not.
    pub key_due: Gauge,
    /// 1 while a rotation of this node's keys runs.
    pub key_rotating: Gauge,
    /// Rotations that ended, by outcome.
    pub key_rotations: Family<RotationOutcome, Counter>,
    /// 1 when the last event could not be written to the audit log, or old files could not be deleted.
    pub audit_failing: Gauge,
    /// Those of serving Services.
    pub proxy: ProxyMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let scrape = Arc::new(Scrape::default());
        let own = registry.sub_registry_with_prefix("selvedge");
        own.register_collector(Box::new(Arc::clone(&scrape)));
        let mut metrics = Self {
            registry: Arc::default(),
            scrape,
            reconciles: Family::default(),
            reconcile_errors: Family::default(),
            reconcile_seconds: Family::new_with_constructor(seconds),
            event_seconds: Family::new_with_constructor(seconds),
            changes: Family::default(),
            refused_nodes: Family::default(),
            refusals: Family::default(),
            missing_nodes: Gauge::default(),
            watch_errors: Counter::default(),
            ready: Gauge::default(),
            loopback_resets: Counter::default(),
            key_epoch: Gauge::default(),
            key_created: Gauge::default(),
            key_expiry: Gauge::default(),
            key_due: Gauge::default(),
            key_rotating: Gauge::default(),
            key_rotations: Family::default(),
            audit_failing: Gauge::default(),
            proxy: ProxyMetrics::default(),
        };
        metrics.register(own);
        metrics.proxy.register(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }
}

impl Metrics {
    fn register(&self, to: &mut Registry) {
        to.register("agent_reconciles", "Runs of a controller", self.reconciles.clone());
        to.register(
            "agent_reconcile_errors",
            "Runs of a controller that failed and were retried",
            self.reconcile_errors.clone(),
        );
        to.register_with_unit(
            "agent_reconcile",
            "Duration of a controller's run",
            Unit::Seconds,
            self.reconcile_seconds.clone(),
        );
        to.register_with_unit(
            "agent_event_to_applied",
            "Time from an event to the end of the controller's run that applied it",
            Unit::Seconds,
            self.event_seconds.clone(),
        );
        to.register(
            "agent_changes",
            "Number of times the controller changed kernel, tunnel or API state",
            self.changes.clone(),
        );
        to.register("refused_nodes", "Nodes whose claims are refused now", self.refused_nodes.clone());
        to.register(
            "missing_nodes",
            "Nodes that are kept although a list lacks them: nothing has reported them as deleted",
            self.missing_nodes.clone(),
        );
        to.register("refusals", "Claims of nodes that were refused", self.refusals.clone());
        to.register(
            "agent_watch_errors",
            "Errors of watches on the Kubernetes API",
            self.watch_errors.clone(),
        );
        to.register("key_epoch", "Epoch of the key in use", self.key_epoch.clone());
        to.register_with_unit(
            "key_created_timestamp",
            "When the key in use was made, since 1970",
            Unit::Seconds,
            self.key_created.clone(),
        );
        to.register_with_unit(
            "key_expiry_timestamp",
            "When the cryptoperiod of the key in use ends, since 1970",
            Unit::Seconds,
            self.key_expiry.clone(),
        );
        to.register_with_unit(
            "key_rotation_due_timestamp",
            "When the agent rotates the key in use, since 1970; 0 if rotation is manual",
            Unit::Seconds,
            self.key_due.clone(),
        );
        to.register("key_rotating", "1 while a rotation of this node's keys runs", self.key_rotating.clone());
        to.register(
            "key_rotations",
            "Rotations of this node's keys that ended, by outcome",
            self.key_rotations.clone(),
        );
        to.register(
            "audit_failing",
            "1 when the last event could not be written to the audit log",
            self.audit_failing.clone(),
        );
        to.register(
            "loopback_node_port_resets",
            "Connections to node ports on loopback that were reset, because the Service did not accept them",
            self.loopback_resets.clone(),
        );
        to.register("node_ready", "1 when this node is ready for pods", self.ready.clone());
    }

    /// The OpenMetrics text, with `snapshot` as the state of tunnel and guard.
    ///
    /// # Errors
    /// Never in practice: formatting into a `String` does not fail.
    pub fn encode(&self, snapshot: Snapshot) -> Result<String, fmt::Error> {
        *self.scrape.0.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0])
}

/// What is read from elsewhere when the metrics are asked for.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The tunnel's own report; none when it does not answer.
    pub tunnel: Option<DeviceStatus>,
    /// Named counters of the nftables tables.
    pub dropped: Vec<Dropped>,
}

/// A named nftables counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Table it stands in.
    pub table: String,
    /// Its name.
    pub counter: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Scrape(Mutex<Snapshot>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let up = ConstGauge::new(i64::from(snapshot.tunnel.is_some()));
        up.encode(encoder.encode_descriptor(
            "tunnel_up",
            "1 when the tunnel answers the agent",
            None,
            MetricType::Gauge,
        )?)?;
        if let Some(tunnel) = &snapshot.tunnel {
            peers(&mut encoder, tunnel)?;
            counters(&mut encoder, tunnel)?;
        }
        dropped(&mut encoder, &snapshot.dropped)
    }
}

fn peers(encoder: &mut DescriptorEncoder<'_>, tunnel: &DeviceStatus) -> fmt::Result {
    let mut states = encoder.encode_descriptor("peers", "Peers, by state", None, MetricType::Gauge)?;
    for (label, state) in [
        ("established", PeerState::Established),
        ("handshaking", PeerState::Handshaking),
        ("idle", PeerState::Idle),
        ("no_endpoint", PeerState::NoEndpoint),
    ] {
        let count = tunnel.peers.iter().filter(|peer| peer.state == state).count();
        let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        gauge.encode(states.encode_family(&[("state", label)])?)?;
    }
    type Value = fn(&PeerStatus) -> u64;
    for (name, help, value) in [
        ("peer_receive", "WireGuard messages received from a peer", (|peer| peer.rx_bytes) as Value),
        ("peer_transmit", "WireGuard messages sent to a peer", |peer| peer.tx_bytes),
    ] {
        let mut family =
            encoder.encode_descriptor(name, help, Some(&Unit::Bytes), ConstCounter::<u64>::TYPE)?;
        for peer in &tunnel.peers {
            let labels = [("peer", peer.name.as_str())];
            ConstCounter::new(value(peer)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn counters(encoder: &mut DescriptorEncoder<'_>, tunnel: &DeviceStatus) -> fmt::Result {
    let counters = &tunnel.counters;
    let mut family = encoder.encode_descriptor(
        "tunnel_drops",
        "Packets and messages that the tunnel did not pass on, by reason",
        None,
        ConstCounter::<u64>::TYPE,
    )?;
    for (reason, value) in [
        ("no_peer", counters.no_peer),
        ("no_session", counters.no_session),
        ("invalid_packet", counters.invalid_packet),
        ("unknown_datagram", counters.unknown_datagram),
        ("bad_mac", counters.bad_mac),
        ("replayed", counters.replayed),
        ("wrong_source", counters.wrong_source),
        ("under_load", counters.under_load),
        ("send_error", counters.send_errors),
    ] {
        ConstCounter::new(value).encode(family.encode_family(&[("reason", reason)])?)?;
    }
    ConstCounter::new(counters.worker_restarts).encode(encoder.encode_descriptor(
        "tunnel_worker_restarts",
        "Times the tunnel's worker process was respawned",
        None,
        ConstCounter::<u64>::TYPE,
    )?)
}

fn dropped(encoder: &mut DescriptorEncoder<'_>, dropped: &[Dropped]) -> fmt::Result {
    type Value = fn(&Dropped) -> u64;
    for (name, value) in [("nftables_packets", (|d| d.packets) as Value), ("nftables_bytes", |d| d.bytes)] {
        let help = "Named nftables counters of Selvedge's tables";
        let mut family = encoder.encode_descriptor(name, help, None, ConstCounter::<u64>::TYPE)?;
        for counter in dropped {
            let labels = [("table", counter.table.as_str()), ("counter", counter.counter.as_str())];
            ConstCounter::new(value(counter)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_family_once_and_ends_as_openmetrics() {
        let metrics = Metrics::default();
        metrics.refusals.get_or_create(&Reason { reason: "duplicate_key".into() }).inc();
        let dropped =
            Dropped { table: "inet selvedge-guard".into(), counter: "out4".into(), packets: 3, bytes: 9 };
        let text = metrics.encode(Snapshot { tunnel: None, dropped: vec![dropped] }).unwrap();
        assert!(text.contains("selvedge_refusals_total{reason=\"duplicate_key\"} 1"), "{text}");
        assert!(text.contains("selvedge_tunnel_up 0"), "{text}");
        let expected = "selvedge_nftables_packets_total{table=\"inet selvedge-guard\",counter=\"out4\"} 3";
        assert!(text.contains(expected), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
