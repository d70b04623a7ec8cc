//! The controllers of a node: one line each says what triggers it, whether pods need it, and what starts it.
//!
//! docs/controllers.md says what a new one needs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::context::Context;
use super::control::{Board, Bus, Mailbox, Name, Runner, Trigger, Triggers, spawn};
use super::controllers::{
    admission, annotations, egress, forwarding, guard, key_policy, key_requests, keys, kube_proxy, link,
    mesh, plugin, ports, ranges, revocations, rotation, routes, service_events, services, sysctls, tunnel,
    wiring,
};
use crate::observe::metrics::Metrics;
use Trigger::{
    ApiServer, EgressMembers, EgressTable, Forwarding, GuardTable, KeyRequest, KeyRevocations, Keys,
    MemberAddresses, NodeFile, Nodes, OwnAdmission, OwnAnnotations, OwnNode, Peers, PodLinks, PodTables,
    Ranges, Revoked, Role, Rotation, Routes, Rules, ServiceCidrs, ServicePorts, ServiceReports, ServiceTable,
    Services, Status, TunnelLink, TunnelSession, Underlay,
};

/// A line of the table.
struct Line {
    name: Name,
    /// What makes it run, beside [`Trigger::Resync`].
    triggers: &'static [Trigger],
    /// Pods may start on this node only while it is at its desired state.
    needed: bool,
    /// How often it compares with the kernel although nothing happened.
    resync: Duration,
    /// Starts it; none for what is not a controller and only has a state.
    start: Option<Start>,
}

type Start = fn(&Arc<Context>, Runner, UnboundedSender<String>) -> std::io::Result<()>;

/// Well below [`crate::ports::FRESH`].
const HEARTBEAT: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(30);
/// For what has as many elements as there are nodes.
const LATER: Duration = Duration::from_secs(300);

macro_rules! start {
    ($controller:ty) => {
        Some(|context, runner, ended| {
            let context = Arc::clone(context);
            spawn(runner, ended, move || <$controller>::new(context))
        })
    };
}

/// A trigger reaches the lines in this order: who depends on others stands behind them, and so never finds them settled
/// before they know of it.
#[rustfmt::skip]
static TABLE: [Line; 25] = [
    Line { name: Name::Guard,        needed: true,  resync: SOON,  triggers: &[GuardTable, Ranges], start: start!(guard::Guard) },
    Line { name: Name::Watches,      needed: false, resync: SOON,  triggers: &[], start: None },
    Line { name: Name::Revocations,  needed: false, resync: LATER, triggers: &[KeyRevocations], start: start!(revocations::Revocations) },
    Line { name: Name::OwnNode,      needed: true,  resync: LATER, triggers: &[OwnNode, OwnAnnotations, Revoked], start: start!(keys::OwnKeys) },
    Line { name: Name::Confirmation, needed: false, resync: SOON,  triggers: &[], start: None },
    Line { name: Name::Mesh,         needed: true,  resync: LATER, triggers: &[OwnNode, Keys, Nodes, Ranges, Revoked], start: start!(mesh::Mesh) },
    Line { name: Name::ServiceRanges, needed: false, resync: LATER, triggers: &[OwnNode, Underlay, MemberAddresses, Peers, ServiceCidrs], start: start!(ranges::ServiceRanges) },
    Line { name: Name::Link,         needed: true,  resync: SOON,  triggers: &[OwnNode, TunnelLink, Underlay], start: start!(link::Link) },
    Line { name: Name::Routes,       needed: true,  resync: LATER, triggers: &[OwnNode, EgressMembers, TunnelLink, PodLinks, Routes, Rules, Ranges], start: start!(routes::Routes) },
    Line { name: Name::Sysctls,      needed: true,  resync: SOON,  triggers: &[TunnelLink, PodLinks, Underlay, Role], start: start!(sysctls::Sysctls) },
    Line { name: Name::Tunnel,       needed: true,  resync: LATER, triggers: &[OwnNode, Keys, Peers, Underlay, TunnelSession], start: start!(tunnel::Tunnel) },
    Line { name: Name::Rotation,     needed: false, resync: SOON,  triggers: &[Rotation, OwnAnnotations, TunnelSession], start: start!(rotation::KeyRotation) },
    Line { name: Name::KeyRequests,  needed: false, resync: SOON,  triggers: &[KeyRequest, Rotation, TunnelSession, ApiServer], start: start!(key_requests::KeyRequests) },
    Line { name: Name::KeyPolicy,    needed: false, resync: LATER, triggers: &[OwnNode, Keys, TunnelSession], start: start!(key_policy::KeyAging) },
    Line { name: Name::KeyAge,       needed: false, resync: LATER, triggers: &[], start: None },
    Line { name: Name::Egress,       needed: true,  resync: LATER, triggers: &[OwnNode, MemberAddresses, EgressTable, Ranges], start: start!(egress::Egress) },
    Line { name: Name::Services,     needed: true,  resync: LATER, triggers: &[OwnNode, MemberAddresses, Underlay, Services, ServiceTable, Ranges, Role], start: start!(services::Services) },
    Line { name: Name::Ports,        needed: false, resync: HEARTBEAT, triggers: &[OwnNode, OwnAdmission, ServicePorts, Role], start: start!(ports::Ports) },
    Line { name: Name::ServiceEvents, needed: false, resync: SOON,  triggers: &[ServiceReports, Peers], start: start!(service_events::ServiceEvents) },
    Line { name: Name::KubeProxy,    needed: false, resync: LATER, triggers: &[Role], start: start!(kube_proxy::KubeProxy) },
    Line { name: Name::Forwarding,   needed: true,  resync: LATER, triggers: &[OwnNode, Forwarding], start: start!(forwarding::Forwarding) },
    Line { name: Name::Wiring,       needed: false, resync: SOON,  triggers: &[PodLinks, Underlay, Routes, PodTables, NodeFile, Status], start: start!(wiring::Wiring) },
    Line { name: Name::Pods,         needed: true,  resync: SOON,  triggers: &[OwnNode, Underlay, Ranges, Status], start: start!(plugin::Plugin) },
    Line { name: Name::Annotations,  needed: false, resync: LATER, triggers: &[OwnNode, OwnAnnotations, Keys, Ranges, Status, ApiServer], start: start!(annotations::Annotations) },
    Line { name: Name::Admission,    needed: false, resync: LATER, triggers: &[OwnAdmission, Status, ApiServer], start: start!(admission::Admission) },
];

/// The mailboxes of all controllers, the bus that fills them, and the board of their states.
pub(super) struct Frame {
    mailboxes: Vec<(Name, Arc<Mailbox>)>,
    pub(super) bus: Bus,
    pub(super) board: Arc<Board>,
}

impl Frame {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let controllers = || TABLE.iter().filter(|line| line.start.is_some());
        let mailboxes: Vec<_> = controllers().map(|line| (line.name, Arc::default())).collect();
        let heard = controllers().zip(&mailboxes);
        let bus =
            Bus::new(heard.map(|(line, (_, mailbox))| (Triggers::of(line.triggers), Arc::clone(mailbox))));
        let needed = TABLE.iter().filter(|line| line.needed).map(|line| line.name).collect();
        let board = Arc::new(Board::new(&mailboxes, needed, bus.clone(), metrics.clone()));
        Self { mailboxes, bus, board }
    }

    /// Starts every controller. `ended` is told of the first that ends, and why.
    pub(super) fn start(
        &self,
        context: &Arc<Context>,
        ended: &UnboundedSender<String>,
    ) -> std::io::Result<()> {
        for (name, mailbox) in &self.mailboxes {
            let Some(line) = TABLE.iter().find(|line| line.name == *name) else { continue };
            let Some(start) = line.start else { continue };
            let runner = Runner {
                name: *name,
                resync: line.resync,
                mailbox: Arc::clone(mailbox),
                board: Arc::clone(&self.board),
                metrics: context.metrics.clone(),
            };
            start(context, runner, ended.clone())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_controller_has_one_line_and_one_name() {
        let names: BTreeSet<Name> = TABLE.iter().map(|line| line.name).collect();
        let labels: BTreeSet<&str> = TABLE.iter().map(|line| line.name.label()).collect();
        assert_eq!((names.len(), labels.len()), (TABLE.len(), TABLE.len()));
    }
}
