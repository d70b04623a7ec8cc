//! The control plane of a node: watches -> desired -> apply.
//!
//! [`run`] starts the tasks; [`reconcile`] is the one that decides and applies. All others only bring news to it or
//! answer questions about it.

pub(crate) mod client;
pub mod device;
pub mod events;
pub mod fabric;
pub mod own;
pub mod parts;
mod reconcile;
pub mod retry;
mod serve;
pub mod status;
pub mod tunnel;
mod underlay;
pub mod watch;

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{Notify, watch as channel};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::guard::{self, GuardConfig};
use crate::kernel::monitor;
use crate::observe::http;
use crate::observe::metrics::{Metrics, Part};
use crate::paths::Paths;

/// Runs the agent until it is told to end (SIGTERM, SIGINT) or one of its tasks fails. When the node loses an address
/// it begins anew: connections from that address are dead, and nobody tells.
///
/// # Errors
/// When it cannot start, naming what is missing, or when a task failed: the supervisor starts it anew.
pub async fn run(config: Config, paths: Paths) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    while let Some(lost) = once(&config, &paths, metrics.clone()).await? {
        tracing::warn!(address = %lost, "the node has lost this address; beginning anew");
    }
    Ok(())
}

/// Gives the address that was lost, or nothing when told to end.
async fn once(config: &Config, paths: &Paths, metrics: Metrics) -> anyhow::Result<Option<IpAddr>> {
    let lost = underlay::lost_address();
    let listener = http::bind(config.agent.metrics_address).await?;
    let keys = reconcile::Keys::open(paths)?;
    let clients = client::connect(config.agent.kubeconfig.as_deref()).await?;

    let (own, own_seen) = channel::channel(None);
    let (nodes, nodes_seen) = channel::channel(None);
    let (broken, broken_seen) = channel::channel(watch::Broken::new());
    let (wanted, wanted_seen) = channel::channel(None);
    let (link, link_seen) = channel::channel(tunnel::Link::default());
    let kernel = Arc::new(Notify::new());
    let report = serve::Report::new(paths, config, metrics.clone());

    let news = reconcile::News {
        own: own_seen,
        nodes: nodes_seen,
        broken: broken_seen,
        link: link_seen,
        kernel: Arc::clone(&kernel),
    };
    let reconciler = reconcile::Reconciler::new(reconcile::Start {
        config: config.clone(),
        paths: paths.clone(),
        client: clients.questions,
        keys,
        wanted,
        report: report.clone(),
        metrics: metrics.clone(),
    })?;

    let mut tasks = JoinSet::new();
    let name = config.node_name.clone();
    let own = watch::own_node(clients.watches.clone(), name, own, broken.clone(), metrics.clone());
    tasks.spawn(named("own node watch", own));
    tasks.spawn(named("nodes watch", watch::all_nodes(clients.watches, nodes, broken, metrics.clone())));
    let socket = paths.tunnel_socket(&config.interface);
    tasks.spawn(named("tunnel", tunnel::follow(socket, wanted_seen, link, metrics.clone())));
    tasks.spawn(named("kernel monitor", watch_kernel(kernel, reconcile::guard_config(config), metrics)));
    tasks.spawn(named("health and metrics", http::serve(listener, Arc::new(report.clone()))));
    tasks.spawn(named("local API", serve::local(paths.agent_socket(), report)));
    tasks.spawn(named("reconciler", reconciler.run(news)));

    tokio::select! {
        signal = ended() => {
            tracing::info!(signal = signal?, "ending; what the kernel and the tunnel have stays");
            Ok(None)
        }
        lost = lost => {
            tasks.shutdown().await;
            Ok(Some(lost))
        }
        ended = tasks.join_next() => {
            let task = ended.context("the agent has no task")?.context("a task of the agent broke")?;
            anyhow::bail!("the task {task:?} ended")
        }
    }
}

async fn named<T>(name: &'static str, task: impl Future<Output = T>) -> &'static str {
    task.await;
    name
}

/// Tells the reconciler of changes. The guard is put back here and now, because a pass may be waiting for the API.
async fn watch_kernel(changed: Arc<Notify>, guard: GuardConfig, metrics: Metrics) {
    loop {
        match monitor::Monitor::new() {
            Ok(mut monitor) => loop {
                match monitor.next().await {
                    Ok(changes) => {
                        if changes.has_table(guard::TABLE) {
                            restore(guard.clone(), &metrics).await;
                        }
                        changed.notify_one();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "lost track of the kernel's changes; looking again");
                        changed.notify_one();
                        break;
                    }
                }
            },
            Err(error) => tracing::warn!(%error, "cannot follow the kernel's changes"),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// When it fails, the next pass tries again and says why.
async fn restore(guard: GuardConfig, metrics: &Metrics) {
    let restored = tokio::task::spawn_blocking(move || guard::ensure(&guard)).await;
    if let Ok(Ok(changes)) = restored
        && !changes.is_empty()
    {
        let part = parts::Name::Guard.label();
        metrics.changes.get_or_create(&Part { part: part.to_owned() }).inc();
        tracing::warn!(part, %changes, "somebody changed the guard; it is put back");
    }
}

async fn ended() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
