//! Sysctls of the node and of the TUN device that forwarding needs.

use std::path::Path;
use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::routing;
use crate::fabric;
use crate::kernel::sysctl;
use crate::pod::gateway;

pub(in crate::agent) struct Sysctls {
    context: Arc<Context>,
}

impl Sysctls {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context })
    }
}

impl Controller for Sysctls {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let routing = routing::config(&self.context);
        let device = routing.tunnel.map(|_| self.context.config.interface.as_str());
        let changes = apply(device, self.context.config.has_ipv6(), routing.routed).map_err(Unmet::failed)?;
        if changes.iter().any(|change| change.contains(fabric::SRC_VALID_MARK)) {
            self.context.bus.post(Trigger::Rules);
        }
        Ok(changes)
    }
}

fn apply(tunnel: Option<&str>, ipv6_pods: bool, routed: bool) -> Result<Vec<String>, sysctl::Error> {
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    if ipv6 && sysctl::read(fabric::IPV6_FORWARDING)? != "1" {
        gateway::keep_router_advertisements()?;
    }
    let mut wanted = fabric::sysctls(tunnel, ipv6, routed);
    if let Some(of_device) = tunnel.map(|tunnel| format!("ipv6/conf/{tunnel}/")).filter(|_| !ipv6_pods) {
        // A small MTU takes IPv6 off the device, with these: nothing of the cluster needs it.
        let is_there = Path::new("/proc/sys/net").join(&of_device).exists();
        wanted.retain(|(key, _)| is_there || !key.starts_with(&of_device));
    }
    sysctl::ensure_all(wanted)
}
