//! Masquerading to the internet, and the drops of what passes between pods and member nodes outside of the tunnel.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::routing;
use crate::egress::{self, EgressConfig};
use crate::kernel::nft::Connection;

pub(in crate::agent) struct Egress {
    context: Arc<Context>,
    connection: Connection,
    /// What was applied last; none when the kernel has to be read first.
    applied: Option<EgressConfig>,
}

impl Egress {
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context, connection: Connection::open()?, applied: None })
    }

    fn desired(&self, addresses: &[std::net::IpAddr]) -> Result<EgressConfig, Unmet> {
        let own = self.context.own()?;
        let (config, routing) = (&self.context.config, routing::config(&self.context));
        Ok(EgressConfig {
            tunnel: config.interface.clone(),
            listen_port: config.listen_port,
            fabric_addresses: routing.fabric_addresses(),
            pod_cidrs: routing.pod_cidrs,
            own_addresses: own.internal.clone(),
            cluster_pod_cidrs: config.cluster_pod_cidrs.clone(),
            service_cidrs: self.context.service_ranges.get().to_vec(),
            non_masquerade_cidrs: config.non_masquerade_cidrs.clone(),
            member_addresses: addresses.to_vec(),
        })
    }
}

impl Controller for Egress {
    async fn reconcile(&mut self, pending: Triggers) -> Outcome {
        let members = self.context.members()?;
        let desired = self.desired(&members.addresses)?;
        // With many nodes the table is large: it is read only when somebody else may have changed it.
        let foreign = [Trigger::EgressTable, Trigger::Resync].iter().any(|it| pending.has(*it));
        let changes = match self.applied.take().filter(|_| !foreign) {
            Some(before) => egress::update(&mut self.connection, &before, &desired),
            None => egress::ensure(&desired),
        };
        let changes = changes.map_err(Unmet::failed)?;
        self.applied = Some(desired);
        self.context.set_egress_members(Arc::clone(&members.addresses));
        Ok(changes.0)
    }
}
