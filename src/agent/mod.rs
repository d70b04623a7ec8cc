//! The control plane of a node: a view of the cluster and of the kernel, and independent controllers over it.
//!
//! In the order in which an event passes: [`sources`] bring what the API server shows into the [`view`], what the kernel has
//! into [`facts`], whether the tunnel answers into [`session`], and post triggers; [`control`] runs the [`controllers`] that
//! the [`table`] names for them, which share a [`context`]; [`serve`] answers questions about all of it.

mod api;
mod audit;
mod cell;
mod context;
mod control;
mod controllers;
mod cryptoperiod;
mod events;
mod facts;
mod keys;
mod members;
mod ranges;
mod retry;
mod rotation;
mod routing;
mod serve;
mod servers;
mod services;
mod session;
mod sources;
pub mod status;
mod table;
mod view;

use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{self, Config};
use crate::kernel::netlink::Netlink;
use crate::mesh::record::Records;
use crate::observe::http;
use crate::observe::metrics::Metrics;
use crate::paths::Paths;
use crate::pod::node::NodeInfo;
use cell::Cell;
use context::{Context, Role};
use control::Trigger;
use facts::KernelFacts;
use sources::confirm::Confirmer;
use sources::reflect::{self, Served};
use sources::{kernel, proxy, servers as api_servers, session as tunnel_session};
use table::Frame;
use view::View;

/// Runs the agent until it is told to end (SIGTERM, SIGINT) or one of its tasks fails. Needs a multi-threaded runtime.
///
/// # Errors
/// When it cannot start, naming what is missing, or when a task or controller ended: the supervisor starts it again.
pub async fn run(config: Config, paths: Paths) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let listener = http::bind(config.agent.metrics_address).await?;
    let frame = Frame::new(&metrics);
    let context = Arc::new(context(config, paths, metrics, &frame).await?);
    let (ended, mut controller_ended) = mpsc::unbounded_channel();
    frame.start(&context, &ended).context("cannot start a controller's thread")?;

    let mut tasks = JoinSet::new();
    let shared = || Arc::clone(&context);
    let report = serve::Report::new(shared());
    tasks.spawn(named("health and metrics", http::serve(listener, Arc::new(report.clone()))));
    tasks.spawn(named("local API", serve::local(report)));
    let of = shared();
    tasks.spawn(named("kernel facts", async move { kernel::follow(&of).await }));
    let of = shared();
    tasks.spawn(named("tunnel session", async move { tunnel_session::follow(&of).await }));
    let of = shared();
    tasks.spawn(named("kube-proxy", async move { proxy::follow(&of).await }));
    let of = shared();
    tasks.spawn(named("watches", async move { watch(&of).await }));
    let confirmer = Confirmer::new(&context);
    tasks.spawn(named("confirmation", confirmer.run()));

    tokio::select! {
        signal = end_signal() => {
            tracing::info!(signal = signal?, "ending; what the kernel and the tunnel have stays");
            Ok(())
        }
        ended = tasks.join_next() => {
            let task = ended.context("the agent has no task")?.context("a task of the agent broke")?;
            anyhow::bail!("the task {task:?} ended")
        }
        why = controller_ended.recv() => anyhow::bail!(why.unwrap_or_default()),
    }
}

async fn context(config: Config, paths: Paths, metrics: Metrics, frame: &Frame) -> anyhow::Result<Context> {
    let (records, quarantined) = Records::open(&paths.records())?;
    if let Some(quarantined) = quarantined {
        tracing::error!(
            path = %quarantined.path.display(), damage = quarantined.damage,
            "the accepted records were damaged and have been moved aside; every claim is decided anew"
        );
    }
    // Before any controller runs: without its device a route into the tunnel would be taken away.
    let facts = KernelFacts::read(&Netlink::new()?).await.context("cannot read devices and addresses")?;
    let api = api::Api::connect(&config, servers::Servers::open(paths.api_servers())).await?;
    let servers = api.servers().get().into_iter().chain(api.server()).map(|at| at.ip());
    let last = || NodeInfo::load(&paths).map(|node| node.service_cidrs).unwrap_or_default();
    let service_ranges = ranges::ServiceRanges::open(
        paths.service_cidrs(),
        config.service_cidrs.clone(),
        &ranges::apart(&config, &facts, servers),
        last,
    );
    Ok(Context {
        keys: Cell::new(keys::Keys::open(&paths)?),
        confirmations: Cell::default(),
        api,
        service_ranges: Arc::new(service_ranges),
        bus: frame.bus.clone(),
        board: Arc::clone(&frame.board),
        view: View::new(frame.bus.clone()),
        records: Arc::new(records),
        facts: Cell::new(Arc::new(facts)),
        facts_changed: tokio::sync::Notify::new(),
        revoked: Cell::default(),
        members: Cell::default(),
        egress_members: Cell::default(),
        session: Cell::default(),
        tunnel_capabilities: Cell::default(),
        service_reports: Cell::default(),
        unheld_checks: Cell::default(),
        service_ports: Cell::default(),
        balancer: Cell::default(),
        role: Cell::new(Role::of(config.services)),
        proxy_changed: tokio::sync::Notify::new(),
        config,
        paths,
        metrics,
    })
}

/// Watches the API server until dropped, over new connections each time that the node has lost an address that one was from.
async fn watch(context: &Context) {
    loop {
        let served = || Served::new(Arc::clone(&context.board), context.bus.clone(), context.metrics.clone());
        let (client, config) = (context.api.watching(), &context.config);
        let (name, ranges) = (&config.node_name, &config.cluster_pod_cidrs);
        let served = served();
        let dead = tokio::select! {
            () = reflect::own_node(client.clone(), name, ranges, &context.view.own, served.clone()) => return,
            () = reflect::all_nodes(client.clone(), Arc::clone(&context.view.nodes), served.clone()) => return,
            () = Box::pin(service_cidrs(client.clone(), context, served.clone())) => return,
            () = Box::pin(key_rotation(client.clone(), context, served.clone())) => return,
            () = Box::pin(key_revocations(client.clone(), context, served.clone())) => return,
            () = Box::pin(services(client, context, served)) => return,
            lost = kernel::lost_address(context) => {
                tracing::warn!(address = %lost, "the node has lost this address, connecting to the API server again");
                None
            }
            dead = api_servers::lost(context) => {
                tracing::warn!(server = %dead, "the API server does not answer");
                Some(dead)
            }
        };
        if let Err(error) = context.api.reconnect(&context.config, dead).await {
            tracing::warn!(error = format!("{error:#}"), "cannot connect to the API server again");
        }
    }
}

/// Watches the ranges of cluster IPs, whoever serves Services: they are protected in any case.
async fn service_cidrs(client: Client, context: &Context, served: Served) {
    let unserved = || {
        context.service_ranges.set_unserved();
        context.bus.post(Trigger::ServiceCidrs);
    };
    reflect::service_cidrs(client, Arc::clone(&context.view.service_cidrs), served, unserved).await;
}

/// Watches what is asked about this node's keys.
async fn key_rotation(client: Client, context: &Context, served: Served) {
    let (name, store) = (&context.config.node_name, Arc::clone(&context.view.key_rotations));
    reflect::key_rotation(client, name, store, served).await;
}

/// Watches what operators revoke.
async fn key_revocations(client: Client, context: &Context, served: Served) {
    let unserved = || {
        context.view.revocations_unserved.set(true);
        context.bus.post(Trigger::KeyRevocations);
    };
    reflect::key_revocations(client, Arc::clone(&context.view.key_revocations), served, unserved).await;
}

/// Watches Services and their endpoints, where this agent serves them or may do so at any time.
async fn services(client: Client, context: &Context, served: Served) {
    if context.config.services == config::Services::Off {
        return std::future::pending().await;
    }
    let view = &context.view;
    tokio::select! {
        () = reflect::services(client.clone(), Arc::clone(&view.services), served.clone()) => {}
        () = reflect::slices(client, Arc::clone(&view.slices), served) => {}
    }
}

async fn named<T>(name: &'static str, task: impl Future<Output = T>) -> &'static str {
    task.await;
    name
}

async fn end_signal() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
