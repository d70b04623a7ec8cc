//! The node's side of running pods: puts back what others took away.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers, Unmet};
use crate::kernel::netlink::Netlink;
use crate::pod;
use crate::pod::node::NodeInfo;

pub(in crate::agent) struct Wiring {
    context: Arc<Context>,
    netlink: Netlink,
}

impl Wiring {
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context, netlink: Netlink::new()? })
    }
}

impl Controller for Wiring {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        // Without it there has been no pod yet.
        let Ok(node) = NodeInfo::load(&self.context.paths) else { return Ok(Vec::new()) };
        pod::repair(&self.netlink, &self.context.paths, &node).await.map_err(Unmet::failed)
    }
}
