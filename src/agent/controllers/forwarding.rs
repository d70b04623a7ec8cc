//! Accept rules for pods in the chain by which iptables forwards, where `iptablesForwardRules` asks for them. Where it does
//! not, an Event says once in a while that the node needs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers, Unmet};
use crate::forwarding::{self, Dropping, REASON, REMEDY};
use crate::mesh::node_object::reference;
use crate::observe::REPORTING_CONTROLLER;

/// API servers forget Events after an hour.
const AGAIN: Duration = Duration::from_secs(1800);

pub(in crate::agent) struct Forwarding {
    context: Arc<Context>,
    /// What was reported last, and when.
    reported: Option<(Vec<Dropping>, Instant)>,
}

impl Forwarding {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context, reported: None })
    }

    /// Writes an Event about the node, which `selvedge install` prints.
    fn report(&mut self, dropping: Vec<Dropping>) {
        if dropping.is_empty() {
            self.reported = None;
            return;
        }
        let known =
            self.reported.as_ref().is_some_and(|(before, at)| *before == dropping && at.elapsed() < AGAIN);
        let Some(own) = self.context.own().ok().filter(|_| !known) else { return };
        let chains: Vec<String> = dropping.iter().map(ToString::to_string).collect();
        let note = format!("{}: {REMEDY}", chains.join(", "));
        tracing::warn!(note, "a firewall on this node drops packets between pods");
        let event = Event {
            type_: EventType::Warning,
            reason: REASON.into(),
            note: Some(note),
            action: "Forward".into(),
            secondary: None,
        };
        let reporter = Reporter {
            controller: REPORTING_CONTROLLER.into(),
            instance: Some(self.context.config.node_name.clone()),
        };
        let recorder = Recorder::new(self.context.api.client(), reporter);
        let reference = reference(&own.name, &own.uid);
        self.context.api.spawn(async move {
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::warn!(%error, "cannot write an Event about this node");
            }
        });
        self.reported = Some((dropping, Instant::now()));
    }
}

impl Controller for Forwarding {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let config = &self.context.config;
        let wanted = config.iptables_forward_rules;
        let ranges = if wanted { config.cluster_pod_cidrs.as_slice() } else { &[] };
        let changes = forwarding::ensure(ranges).map_err(Unmet::failed)?;
        match forwarding::dropping(config) {
            Err(error) if wanted => return Err(Unmet::failed(error)),
            // Whoever does not ask for rules is not held up by a table that cannot be read.
            Err(error) => tracing::debug!(%error, "cannot look for firewalls that drop what is forwarded"),
            Ok(dropping) => match dropping.iter().find(|_| wanted) {
                Some(dropping) => return Err(Unmet::failed(dropping.refusal(config))),
                None => self.report(dropping),
            },
        }
        Ok(changes.0)
    }
}
