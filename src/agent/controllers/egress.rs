//! Masquerading to the internet, and the drops of what passes between pods and member nodes outside of the tunnel.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers, Unmet};
use crate::agent::routing;
use crate::egress::{self, EgressConfig};

pub(in crate::agent) struct Egress {
    context: Arc<Context>,
}

impl Egress {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context })
    }
}

impl Controller for Egress {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let (own, members) = (self.context.own()?, self.context.members()?);
        let (config, routing) = (&self.context.config, routing::config(&self.context));
        let desired = EgressConfig {
            tunnel: config.interface.clone(),
            listen_port: config.listen_port,
            fabric_addresses: routing.fabric_addresses(),
            pod_cidrs: routing.pod_cidrs,
            own_addresses: own.internal.clone(),
            cluster_pod_cidrs: config.cluster_pod_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            non_masquerade_cidrs: config.non_masquerade_cidrs.clone(),
            member_addresses: members.addresses.to_vec(),
        };
        let changes = egress::ensure(&desired).map_err(Unmet::failed)?;
        self.context.set_egress_members(Arc::clone(&members.addresses));
        Ok(changes.0)
    }
}
