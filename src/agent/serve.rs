//! What the agent answers: health, readiness, metrics, the command line's `status`, and the CNI plugin.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::rotation;
use super::services;
use super::status::AgentStatus;
use crate::local::{self, Client, Method, Problem, Response, Router};
use crate::observe::http::Source;
use crate::observe::metrics::{Dropped, Snapshot};
use crate::pod::admission::{self, AdmitRequest, Admitted};
use crate::tunnel::api::DeviceStatus;
use crate::{egress, guard, service};

/// A controller whose run has lasted so long never ends: a restart would mend it.
const STALLED: Duration = Duration::from_secs(300);
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the answers come from. All clones are one.
#[derive(Clone)]
pub(super) struct Report(Arc<Context>);

impl Report {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self(context)
    }

    fn socket(&self) -> PathBuf {
        self.0.paths.tunnel_socket(&self.0.config.interface)
    }

    async fn tunnel(&self) -> Option<DeviceStatus> {
        Client::new(&self.socket()).with_timeout(TUNNEL_TIMEOUT).get("/v1/status").await.ok()
    }

    async fn status(&self) -> AgentStatus {
        let tunnel = self.tunnel().await;
        let context = &self.0;
        let (key_epoch, public_key) = context.key();
        let members = context.members.get();
        AgentStatus {
            node: context.config.node_name.clone(),
            ready: context.board.unready().is_empty(),
            problems: context.board.problems(),
            public_key,
            key_epoch,
            pod_cidrs: context.own().map(|own| own.pod_cidrs.clone()).unwrap_or_default(),
            refused: members.map(|members| members.refused.to_vec()).unwrap_or_default(),
            controllers: context.board.controllers(),
            tunnel,
        }
    }
}

impl Source for Report {
    fn unhealthy(&self) -> Vec<String> {
        let hanging = self.0.board.hanging(STALLED).into_iter();
        hanging
            .map(|(name, since)| format!("{}: a run has not ended for {} s", name.label(), since.as_secs()))
            .collect()
    }

    fn unready(&self) -> Vec<String> {
        self.0.board.unready()
    }

    async fn metrics(&self) -> String {
        let tunnel = self.tunnel().await;
        let dropped = tokio::task::spawn_blocking(counters).await.unwrap_or_default();
        self.0.metrics.encode(Snapshot { tunnel, dropped }).unwrap_or_default()
    }
}

fn counters() -> Vec<Dropped> {
    let tables = [
        (guard::TABLE, guard::dropped()),
        (egress::TABLE, egress::connections()),
        (service::table::TABLE, service::table::counters()),
    ];
    let read = tables.into_iter().filter_map(|(table, counters)| Some((table, counters.ok()?)));
    read.flat_map(|(table, counters)| {
        counters.into_iter().map(|(counter, value)| Dropped {
            table: table.to_owned(),
            counter,
            packets: value.packets,
            bytes: value.bytes,
        })
    })
    .collect()
}

/// Serves the local API until the task is dropped or the socket cannot be had.
pub(super) async fn local(report: Report) {
    let socket = report.0.paths.agent_socket();
    let listener = match local::listen(&socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot serve the local API"),
    };
    if let Err(error) = local::serve(listener, router(&report)).await {
        tracing::error!(%error, "the local API ended");
    }
}

fn router(report: &Report) -> Router {
    let mut router = Router::new();
    let context = Arc::clone(&report.0);
    let configured = Arc::clone(&context);
    router.route(Method::GET, "/v1/config", move |_| {
        let answer = Response::json(&configured.config);
        async move { answer }
    });
    let admitting = Arc::clone(&report.0);
    let report = report.clone();
    router.route(Method::GET, "/v1/status", move |_| {
        let report = report.clone();
        async move { Response::json(&report.status().await) }
    });
    // Here NetworkPolicy will hold a pod back until its rules are in the kernel.
    router.route(Method::POST, admission::ROUTE, move |request| {
        let context = Arc::clone(&admitting);
        async move {
            let asked: AdmitRequest = request.json()?;
            refuse_foreign(&context, &asked)?;
            tracing::debug!(pod = asked.pod, namespace = asked.namespace, "pod admitted");
            Response::json(&Admitted {})
        }
    });
    services::route(&mut router, &context);
    rotation::route(&mut router, &context);
    router
}

/// A Node that was registered again may have other pod CIDRs than `node.json` until that is written again. A pod that
/// started meanwhile would keep an address of another node.
fn refuse_foreign(context: &Context, asked: &AdmitRequest) -> Result<(), Problem> {
    let Ok(own) = context.own() else { return Ok(()) };
    let is_own = |address: &&IpAddr| own.pod_cidrs.iter().any(|cidr| cidr.contains(*address));
    match asked.addresses.iter().find(|address| !is_own(address)) {
        Some(address) => Err(Problem::conflict(format!("{address} is in none of this node's pod CIDRs"))),
        None => Ok(()),
    }
}
