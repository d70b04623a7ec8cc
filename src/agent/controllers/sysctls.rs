//! Sysctls of the node and of the TUN device that forwarding needs.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::routing;
use crate::fabric;
use crate::kernel::sysctl;
use crate::pod::gateway;
use crate::service::tracking;

pub(in crate::agent) struct Sysctls {
    context: Arc<Context>,
    /// Settings of conntrack that the kernel has refused, as the log has them already.
    refused: BTreeSet<String>,
}

impl Sysctls {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context, refused: BTreeSet::new() })
    }

    /// A refused write is logged once and does not make the node unready: Services work without it.
    fn conntrack(&mut self) -> Vec<String> {
        let config = &self.context.config;
        if !self.context.serves().unwrap_or(false) {
            return Vec::new();
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let done = tracking::apply(&config.conntrack, u32::try_from(cores).unwrap_or(u32::MAX));
        for error in done.refused {
            if self.refused.insert(error.to_string()) {
                tracing::warn!(%error, "conntrack stays as it is");
            }
        }
        done.changed
    }
}

impl Controller for Sysctls {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let routing = routing::config(&self.context);
        let device = routing.tunnel.map(|_| self.context.config.interface.as_str());
        let mut changes =
            apply(device, self.context.config.has_ipv6(), routing.routed).map_err(Unmet::failed)?;
        if changes.iter().any(|change| change.contains(fabric::SRC_VALID_MARK)) {
            self.context.bus.post(Trigger::Rules);
        }
        changes.extend(self.conntrack());
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
