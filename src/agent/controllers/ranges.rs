//! The ranges of cluster IPs: those of ServiceCIDR objects join the configured ones.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::ranges;
use crate::agent::view::store::{Key, Object, Subscription};
use crate::pod::node::NodeInfo;
use crate::service::ranges::{Apart, Refused};

/// Refused ranges that a message names.
const SHOWN: usize = 4;

pub(in crate::agent) struct ServiceRanges {
    context: Arc<Context>,
    objects: Subscription<Vec<String>>,
}

impl ServiceRanges {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        let bus = context.bus.clone();
        let wake = move || bus.post(Trigger::ServiceCidrs);
        let objects = context.view.service_cidrs.subscribe(PartialEq::ne, wake);
        Ok(Self { context, objects })
    }

    /// Where nodes are, how they are reached, and the API servers.
    fn apart(&self) -> Result<Apart, Unmet> {
        let (own, members) = (self.context.own()?, self.context.members()?);
        let peers = members.peers.iter().flat_map(|peer| &peer.endpoints).map(|endpoint| endpoint.ip());
        let of_own = own.internal.iter().chain(&own.external).copied();
        let servers = self.context.api.servers().get().into_iter().chain(self.context.api.server());
        let mut apart =
            ranges::apart(&self.context.config, &self.context.facts.get(), servers.map(|at| at.ip()));
        apart.hosts.extend(members.addresses.iter().copied().chain(peers).chain(of_own));
        Ok(apart)
    }

    /// The CNI plugin makes the guard what this file says: it must not take away what the agent adds next.
    fn save_for_plugin(&self) -> anyhow::Result<()> {
        let paths = &self.context.paths;
        // Without it no pod has been started.
        let Ok(node) = NodeInfo::load(paths) else { return Ok(()) };
        let service_cidrs = self.context.service_ranges.get().to_vec();
        if node.service_cidrs != service_cidrs {
            NodeInfo { service_cidrs, ..node }.save(paths)?;
            self.context.bus.post(Trigger::NodeFile);
        }
        Ok(())
    }
}

impl Controller for ServiceRanges {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        // Where one has changed, all are looked at.
        self.objects.take();
        let (view, found) = (&self.context.view.service_cidrs, &self.context.service_ranges);
        if !view.is_synced() {
            if !found.is_unserved() {
                return Err(Unmet::waiting("waiting for the list of ServiceCIDRs"));
            }
            self.set_known();
            return Ok(Vec::new());
        }
        let apart = self.apart()?;
        let objects: Vec<(Key, Object<Vec<String>>)> =
            view.keys().into_iter().filter_map(|key| Some((key.clone(), view.get(&key)?))).collect();
        let named = objects.iter().map(|(key, object)| (key.name.as_str(), &object.value[..]));
        let (new, refused) = found.take(named, &apart);
        // A range is in force whether or not that can be written.
        let saved = self.save_for_plugin();
        if !new.is_empty() {
            self.context.bus.post(Trigger::Ranges);
        }
        self.set_known();
        saved.and_then(|()| found.save()).map_err(|error| Unmet::failed(format!("{error:#}")))?;
        if refused.is_empty() {
            Ok(new.iter().map(|range| format!("service range {range}")).collect())
        } else {
            Err(Unmet::failed(text(&refused)))
        }
    }
}

impl ServiceRanges {
    fn set_known(&self) {
        if self.context.service_ranges.set_known() {
            self.context.bus.post(Trigger::Ranges);
        }
    }
}

fn text(refused: &[Refused]) -> String {
    let shown: Vec<String> = refused.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = match refused.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("not a range of Services to Selvedge: {}{more}", shown.join("; "))
}
