//! Sends the holder of ports its configuration, and repeats it every 10 seconds: the holder answers 503 once it is a minute old.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Name, Outcome, Trigger, Triggers, Unmet};
use crate::local::Client;
use crate::ports::ROUTE;
use crate::ports::wanted::{Held, Proxy, Wanted};
use crate::service::object::ServiceName;

/// By it a cluster autoscaler says that it will delete the Node.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
const TIMEOUT: Duration = Duration::from_secs(2);

pub(in crate::agent) struct Ports {
    context: Arc<Context>,
    /// When the table of Services was last right.
    updated: Option<Timestamp>,
    /// Connections that the holder had reset when it answered last.
    reset: u64,
}

impl Ports {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context, updated: None, reset: 0 })
    }

    fn wanted(&mut self) -> Result<Wanted, Unmet> {
        let own = self.context.own()?;
        if self.context.board.is_settled(Name::Services) {
            self.updated = Some(Timestamp::now());
        }
        let updated = self.updated.ok_or_else(|| Unmet::waiting("Services are not served yet"))?;
        let is_leaving = own.is_deleted || own.taints.iter().any(|taint| taint.key == TO_BE_DELETED);
        let proxy = Some(Proxy { updated, is_eligible: !is_leaving });
        Ok(Wanted { proxy, ..self.context.service_ports.get() })
    }

    /// For the Events about them.
    fn report(&self, wanted: &Wanted, held: &Held) {
        let unheld = held.refused.iter().filter_map(|(port, error)| {
            let check = wanted.checks.get(port)?;
            let service = ServiceName { namespace: check.namespace.clone(), name: check.name.clone() };
            Some((*port, (service, error.clone())))
        });
        if self.context.unheld_checks.set(unheld.collect()) {
            self.context.bus.post(Trigger::ServiceReports);
        }
    }

    async fn tell(&self, wanted: &Wanted) -> Result<Held, crate::local::ClientError> {
        let holder = Client::new(&self.context.paths.ports_socket()).with_timeout(TIMEOUT);
        holder.put(ROUTE, wanted).await
    }
}

impl Controller for Ports {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        if !self.context.role.lock().holds_ports {
            // Another proxy holds them. `selvedge ports` need not run.
            let _ = self.tell(&Wanted::default()).await;
            self.updated = None;
            self.report(&Wanted::default(), &Held::default());
            return Ok(Vec::new());
        }
        let wanted = self.wanted()?;
        let held = self.tell(&wanted).await;
        let held = held.map_err(|error| {
            Unmet::failed(format!("the health check ports of Services: {error}; `selvedge ports` holds them"))
        })?;
        self.report(&wanted, &held);
        // Another holder counts from zero.
        let before = if held.reset < self.reset { 0 } else { self.reset };
        self.context.metrics.loopback_resets.inc_by(held.reset - before);
        self.reset = held.reset;
        let refused = held.refused.iter().map(|(port, error)| match wanted.checks.get(port) {
            Some(check) => format!("port {port} of {}/{}: {error}", check.namespace, check.name),
            None => format!("port {port}: {error}"),
        });
        match refused.collect::<Vec<_>>() {
            none if none.is_empty() => Ok(Vec::new()),
            refused => Err(Unmet::failed(refused.join("; "))),
        }
    }
}
