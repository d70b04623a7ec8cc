//! The TUN device as the fabric needs it: MTU, link group, state and the fabric addresses.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers, Unmet};
use crate::agent::routing;
use crate::fabric::device;
use crate::kernel::netlink::Netlink;

pub(in crate::agent) struct Link {
    context: Arc<Context>,
    netlink: Netlink,
}

impl Link {
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context, netlink: Netlink::new()? })
    }
}

impl Controller for Link {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let name = &self.context.config.interface;
        let link = self.netlink.link_named(name).await.map_err(Unmet::failed)?;
        let missing = || Unmet::waiting(format!("there is no device {name}; is the tunnel running?"));
        let link = link.ok_or_else(missing)?;
        let addresses = routing::config(&self.context).fabric_addresses();
        // Without this node's object its addresses are not known, and the MTU stays as it is.
        let mtu = self.context.own().map_or(Ok(link.mtu), |own| self.context.mtu(&own.internal));
        let wanted = mtu.unwrap_or_else(|error| error.least());
        let changes =
            device::ensure(&self.netlink, &link, wanted, &addresses).await.map_err(Unmet::failed)?;
        mtu.map(|_| changes).map_err(Unmet::too_small)
    }
}
