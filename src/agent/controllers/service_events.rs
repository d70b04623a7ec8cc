//! Events about what Services ask for and do not get. Two nodes write each; see [`crate::service::report`].

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers};
use crate::agent::events::{Said, note};
use crate::agent::status::Refused;
use crate::observe::REPORTING_CONTROLLER;
use crate::service::report::{Ranking, Reason, Report};

pub(in crate::agent) struct ServiceEvents {
    context: Arc<Context>,
    said: Said,
}

impl ServiceEvents {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context, said: Said::new(Instant::now()) })
    }

    /// What this node is to write, of what there is to report now.
    fn own(&self) -> Result<Vec<Report>, crate::agent::control::Unmet> {
        let members = self.context.members()?;
        let others = members.peers.iter().map(|peer| peer.name.as_str());
        let ranking = Ranking::new(&self.context.config.node_name, others);
        let reports = self.context.service_reports.get();
        let mut own: Vec<Report> =
            reports.iter().filter(|report| ranking.is_writer(&report.uid)).cloned().collect();
        own.extend(self.unheld());
        Ok(own)
    }

    /// Of this node alone.
    fn unheld(&self) -> Vec<Report> {
        let unheld = self.context.unheld_checks.get();
        let balancer = self.context.balancer.lock();
        let report = |(port, (service, error)): (&u16, &(_, String))| {
            let uid = balancer.uid(service)?.to_owned();
            let note = format!("health check port {port} is not answered on every node: {error}");
            Some(Report { service: service.clone(), uid, reason: Reason::HealthCheckPortNotHeld, note })
        };
        unheld.iter().filter_map(report).collect()
    }

    /// An Event that is there already has been written by the other node.
    fn write(&self, report: &Report) {
        let (service, event) = (report.service.clone(), self.event(report));
        tracing::debug!(%service, reason = report.reason.label(), note = report.note, "writing an Event");
        let client = self.context.api.client();
        self.context.api.spawn(async move {
            let events: Api<Event> = Api::namespaced(client, &service.namespace);
            match events.create(&PostParams::default(), &event).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => tracing::warn!(%error, %service, "cannot write an Event about the Service"),
            }
        });
    }

    fn event(&self, report: &Report) -> Event {
        let (node, service) = (&self.context.config.node_name, &report.service);
        let regarding = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(service.namespace.clone()),
            name: Some(service.name.clone()),
            uid: Some(report.uid.clone()),
            ..ObjectReference::default()
        };
        Event {
            metadata: ObjectMeta {
                namespace: Some(service.namespace.clone()),
                name: Some(report.event_name(node)),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some(REPORTING_CONTROLLER.into()),
            reporting_instance: Some(node.clone()),
            action: Some("ServeService".into()),
            reason: Some(report.reason.label().into()),
            regarding: Some(regarding),
            note: Some(note(&report.note)),
            type_: Some("Warning".into()),
            ..Event::default()
        }
    }
}

impl Controller for ServiceEvents {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let own = self.own()?;
        let refused = |report: &Report| {
            let (name, message) = (report.service.to_string(), report.note.clone());
            // Another content is another Event.
            let key = report.event_name(&self.context.config.node_name) + &report.uid;
            (key, Refused { node: name, reason: report.reason.label().to_owned(), message })
        };
        let keyed: Vec<_> = own.iter().map(refused).collect();
        let (_, due) = self.said.take(&keyed, Instant::now());
        for (report, refusal) in own.iter().zip(&keyed) {
            if due.contains(refusal) {
                self.write(report);
            }
        }
        Ok(Vec::new())
    }
}
