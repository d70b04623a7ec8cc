//! What the agent answers: health, readiness, metrics, and the command line's `status`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use selvedge_keys::PublicKey;

use super::status::{AgentStatus, Refused};
use crate::config::Config;
use crate::local::{self, Client, Method, Problem, Response, Router};
use crate::observe::http::Source;
use crate::observe::metrics::{Dropped, Metrics, Snapshot};
use crate::paths::Paths;
use crate::tunnel::api::DeviceStatus;
use crate::{egress, guard};

/// The reconciler makes a pass at least every 30 s; one that has not for so long hangs.
const STALLED: Duration = Duration::from_secs(300);
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of the last pass, and where to ask for the rest. All clones are one.
#[derive(Clone)]
pub(super) struct Report {
    pass: Arc<Mutex<Pass>>,
    config: Config,
    tunnel: PathBuf,
    metrics: Metrics,
}

/// Outcome of a pass of the reconciler.
pub(super) struct Pass {
    pub(super) at: Instant,
    /// What keeps pods from starting; none when ready.
    pub(super) unready: Vec<String>,
    pub(super) problems: Vec<String>,
    pub(super) key: Option<(u64, PublicKey)>,
    pub(super) pod_cidrs: Vec<IpNet>,
    pub(super) refused: Vec<Refused>,
}

impl Report {
    pub(super) fn new(paths: &Paths, config: &Config, metrics: Metrics) -> Self {
        let pass = Pass {
            at: Instant::now(),
            unready: vec!["the first pass is not done".into()],
            problems: Vec::new(),
            key: None,
            pod_cidrs: Vec::new(),
            refused: Vec::new(),
        };
        Self {
            pass: Arc::new(Mutex::new(pass)),
            config: config.clone(),
            tunnel: paths.tunnel_socket(&config.interface),
            metrics,
        }
    }

    pub(super) fn put(&self, pass: Pass) {
        self.metrics.ready.set(i64::from(pass.unready.is_empty()));
        *self.pass() = pass;
    }

    fn pass(&self) -> MutexGuard<'_, Pass> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tunnel(&self) -> Option<DeviceStatus> {
        Client::new(&self.tunnel).with_timeout(TUNNEL_TIMEOUT).get("/v1/status").await.ok()
    }

    async fn status(&self) -> Option<AgentStatus> {
        let tunnel = self.tunnel().await;
        let pass = self.pass();
        let (key_epoch, public_key) = pass.key?;
        Some(AgentStatus {
            node: self.config.node_name.clone(),
            ready: pass.unready.is_empty(),
            problems: pass.problems.clone(),
            public_key,
            key_epoch,
            pod_cidrs: pass.pod_cidrs.clone(),
            refused: pass.refused.clone(),
            tunnel,
        })
    }
}

impl Source for Report {
    fn unhealthy(&self) -> Vec<String> {
        let idle = self.pass().at.elapsed();
        if idle < STALLED {
            return Vec::new();
        }
        vec![format!("the reconciler has made no pass for {} s", idle.as_secs())]
    }

    fn unready(&self) -> Vec<String> {
        self.pass().unready.clone()
    }

    async fn metrics(&self) -> String {
        let tunnel = self.tunnel().await;
        let dropped = tokio::task::spawn_blocking(counters).await.unwrap_or_default();
        self.metrics.encode(Snapshot { tunnel, dropped }).unwrap_or_default()
    }
}

fn counters() -> Vec<Dropped> {
    let tables = [(guard::TABLE, guard::dropped()), (egress::TABLE, egress::connections())];
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
pub(super) async fn local(socket: PathBuf, report: Report) {
    let mut router = Router::new();
    let config = report.config.clone();
    router.route(Method::GET, "/v1/config", move |_| {
        let answer = Response::json(&config);
        async move { answer }
    });
    router.route(Method::GET, "/v1/status", move |_| {
        let report = report.clone();
        async move {
            match report.status().await {
                Some(status) => Response::json(&status),
                None => Err(Problem::conflict("the agent has just started; ask again")),
            }
        }
    });
    let listener = match local::listen(&socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no local API"),
    };
    if let Err(error) = local::serve(listener, router).await {
        tracing::error!(%error, "the local API ended");
    }
}
