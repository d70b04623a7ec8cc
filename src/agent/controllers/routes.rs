//! Routes and rules that carry the fabric. Routes to other nodes' addresses are laid once the egress table knows those.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::routing;
use crate::fabric;
use crate::kernel::netlink::{Error, Netlink};
use crate::kernel::route::{MAIN, Route, diff};

pub(in crate::agent) struct Routes {
    context: Arc<Context>,
    netlink: Netlink,
    /// What was applied last; none when the kernel has to be read first.
    applied: Option<Applied>,
}

struct Applied {
    routes: BTreeSet<Route>,
    members: bool,
}

impl Routes {
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context, netlink: Netlink::new()?, applied: None })
    }

    /// With many nodes there are tens of thousands of routes: they are read only when somebody else may have changed them.
    async fn routes(&mut self, desired: BTreeSet<Route>, members: bool) -> Result<Vec<String>, Error> {
        let before = self.applied.take();
        let changes = match before.filter(|before| before.members == members) {
            Some(before) => {
                let (gone, new): (Vec<Route>, Vec<Route>) = (
                    before.routes.difference(&desired).cloned().collect(),
                    desired.difference(&before.routes).cloned().collect(),
                );
                diff(&new, &gone)
            }
            None => {
                // Until the other nodes' addresses are known, the pods' table stays as it is.
                let owns = |route: &Route| fabric::owns(route) && (members || route.table == MAIN);
                let found: Vec<Route> = self.netlink.routes().await?.into_iter().filter(owns).collect();
                diff(&desired.iter().cloned().collect::<Vec<_>>(), &found)
            }
        };
        let what = changes.iter().map(|change| change.what().to_owned()).collect();
        self.netlink.apply(changes).await?;
        self.applied = Some(Applied { routes: desired, members });
        Ok(what)
    }
}

impl Controller for Routes {
    async fn reconcile(&mut self, pending: Triggers) -> Outcome {
        // A device that goes takes its routes along, and tells no one.
        if [Trigger::Routes, Trigger::Resync, Trigger::TunnelLink].iter().any(|it| pending.has(*it)) {
            self.applied = None;
        }
        let members = self.context.egress_members.lock().is_some();
        let desired = routing::config(&self.context);
        let owns = |route: &Route| fabric::owns(route) && (members || route.table == MAIN);
        let routes = desired.routes().into_iter().filter(owns).collect();
        let mut changes = self.routes(routes, members).await.map_err(Unmet::failed)?;
        changes.extend(self.netlink.sync_rules(&desired.rules()).await.map_err(Unmet::failed)?);
        Ok(changes)
    }
}
