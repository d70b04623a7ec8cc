//! What all controllers share: the configuration, the view, and what one controller hands to the next.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use selvedge_keys::PublicKey;
use tokio::sync::Notify;

use super::api::Api;
use super::cell::Cell;
use super::control::{Board, Bus, Trigger, Unmet};
use super::facts::KernelFacts;
use super::keys::{Confirmations, Keys};
use super::members::Members;
use super::ranges::ServiceRanges;
use super::session::Session;
use super::view::View;
use crate::config::{self, ClusterRanges, Config};
use crate::fabric::device;
use crate::guard::GuardConfig;
use crate::mesh::node_object::OwnNode;
use crate::mesh::record::Records;
use crate::mesh::revoked::Revoked;
use crate::mtu::{self, TooSmall};
use crate::observe::metrics::Metrics;
use crate::paths::Paths;
use crate::ports::wanted::Wanted;
use crate::service::balancer::Balancer;
use crate::service::object::ServiceName;
use crate::service::report::Report;

/// Shared by all controllers. What changes in it is behind a cell, whose new value is announced by a trigger.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) paths: Paths,
    /// The ranges of cluster IPs: the configured ones, and those of ServiceCIDR objects.
    pub(super) service_ranges: Arc<ServiceRanges>,
    pub(super) metrics: Metrics,
    pub(super) bus: Bus,
    pub(super) board: Arc<Board>,
    pub(super) api: Api,
    pub(super) view: View,
    /// What was accepted before the agent started.
    pub(super) records: Arc<Records>,
    pub(super) facts: Cell<Arc<KernelFacts>>,
    /// Notified whenever the facts were read again.
    pub(super) facts_changed: Notify,
    pub(super) keys: Cell<Keys>,
    /// How many peers have confirmed the key of the rotation that runs; by the controller of rotations.
    pub(super) confirmations: Cell<Confirmations>,
    /// What operators have revoked, once it is known; by the controller of revocations.
    pub(super) revoked: Cell<Option<Arc<Revoked>>>,
    /// Whom this node believes; by the mesh controller, once what it accepts is on disk.
    pub(super) members: Cell<Option<Arc<Members>>>,
    /// The members' addresses that the egress table drops in the clear. Routes into the tunnel are laid for these alone.
    pub(super) egress_members: Cell<Option<Arc<[IpAddr]>>>,
    pub(super) session: Cell<Session>,
    /// What the tunnel understands beyond the first version; known once a session is open.
    pub(super) tunnel_capabilities: Cell<Vec<String>>,
    /// What there is to report about Services, the same on all nodes; by the Services controller.
    pub(super) service_reports: Cell<Arc<[Report]>>,
    /// The health check ports that are not held here, with the Service and the reason; by the controller of ports.
    pub(super) unheld_checks: Cell<BTreeMap<u16, (ServiceName, String)>>,
    /// The ports of Services that a process holds; without the state of the proxy.
    pub(super) service_ports: Cell<Wanted>,
    /// The Services of this node; by the Services controller. Whoever else locks it does so for a short time.
    pub(super) balancer: Cell<Balancer>,
    /// Whether this agent serves Services; by the source that probes for kube-proxy.
    pub(super) role: Cell<Role>,
    /// Notified when kube-proxy has added rules.
    pub(super) proxy_changed: Notify,
}

/// The role of this agent in serving Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Role {
    /// Whether it serves them; unknown until the first probe for another proxy.
    pub(super) serves: Option<bool>,
    /// Whether `selvedge ports` is to hold kube-proxy's ports.
    pub(super) holds_ports: bool,
    /// No other proxy runs: rules of kube-proxy in the kernel are stale.
    pub(super) is_alone: bool,
    /// The kube-proxy mode of another proxy that runs; empty if it does not report one.
    pub(super) other: Option<String>,
}

impl Role {
    /// Before the first probe for another proxy.
    pub(super) fn of(configured: config::Services) -> Self {
        let serves = match configured {
            config::Services::Auto => None,
            config::Services::On => Some(true),
            config::Services::Off => Some(false),
        };
        Self { serves, holds_ports: serves == Some(true), ..Self::default() }
    }
}

impl Context {
    /// This node's own object. What keeps it from being used is for the controller of that name to report.
    pub(super) fn own(&self) -> Result<Arc<OwnNode>, Unmet> {
        let own = self.view.own.get(&self.config.node_name);
        own.map_err(|_| Unmet::waiting("waiting for this node's own object"))
    }

    /// Whom this node believes.
    pub(super) fn members(&self) -> Result<Arc<Members>, Unmet> {
        self.members.get().ok_or_else(|| Unmet::waiting("which other nodes to believe is not known yet"))
    }

    /// What operators have revoked.
    pub(super) fn revoked(&self) -> Result<Arc<Revoked>, Unmet> {
        self.revoked.get().ok_or_else(|| Unmet::waiting("which keys are revoked is not known yet"))
    }

    /// MTU of the tunnel and the pods of a node with these addresses, where what is between the nodes is enough.
    pub(super) fn mtu(&self, node_addresses: &[IpAddr]) -> Result<u32, TooSmall> {
        let underlay = self.config.mtu.map_or_else(
            || {
                let facts = self.facts.get();
                device::underlay_mtu(&facts.links, &facts.addresses, node_addresses)
            },
            u32::from,
        );
        mtu::of_pods(underlay, self.config.has_ipv6())
    }

    /// Whether this agent serves Services.
    pub(super) fn serves(&self) -> Result<bool, Unmet> {
        let serves = self.role.lock().serves;
        serves.ok_or_else(|| Unmet::waiting("waiting for the first probe for kube-proxy"))
    }

    /// The cluster's own ranges, as they are in force.
    pub(super) fn ranges(&self) -> ClusterRanges {
        ClusterRanges { services: self.service_ranges.get().to_vec(), ..self.config.ranges() }
    }

    /// What the guard follows from now.
    pub(super) fn guard(&self) -> GuardConfig {
        GuardConfig { service_cidrs: self.service_ranges.get().to_vec(), ..GuardConfig::from(&self.config) }
    }

    /// Epoch and key for people.
    pub(super) fn key(&self) -> (u64, PublicKey) {
        self.keys.lock().current()
    }

    /// Hands the addresses that the egress table knows to those who lay routes.
    pub(super) fn set_egress_members(&self, members: Arc<[IpAddr]>) {
        if self.egress_members.set(Some(members)) {
            self.bus.post(Trigger::EgressMembers);
        }
    }
}
