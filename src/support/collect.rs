//! Looks at everything that goes into a bundle, each with its own deadline.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client as Kubernetes};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Missing, log, render};
use crate::doctor::{Doctor, keys};
use crate::kernel::LINK_GROUP;
use crate::kernel::netlink::Netlink;
use crate::kernel::nft::{self, Family};
use crate::local::Client;
use crate::observe::REPORTING_CONTROLLER;
use crate::pod::{hostport, spoof};
use crate::{api_server, fabric};
use crate::{egress, guard, service};

/// Files of `/proc/net` with counters.
const COUNTERS: [&str; 8] =
    ["snmp", "snmp6", "netstat", "sockstat", "sockstat6", "softnet_stat", "dev", "stat/nf_conntrack"];
/// Sysctls that the node's own do not name.
const SYSCTLS: [&str; 6] = [
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/default/rp_filter",
    "ipv6/conf/all/disable_ipv6",
    "netfilter/nf_conntrack_count",
    "netfilter/nf_conntrack_max",
    "core/rmem_max",
];
const DEADLINE: Duration = Duration::from_secs(10);
/// Most of what a metrics endpoint may send.
const METRICS: u64 = 16 << 20;
/// Most Events that are kept, how many are asked for at once, and how often at most.
const EVENTS: usize = 1000;
const PAGE: u32 = 500;
const PAGES: usize = 40;

/// Files by name, and what is not there.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) missing: Vec<Missing>,
}

impl Collected {
    fn put(&mut self, name: &str, content: anyhow::Result<Vec<u8>>) {
        match content {
            Ok(content) => drop(self.files.insert(name.to_owned(), content)),
            Err(error) => self.missing.push(Missing { what: name.to_owned(), why: format!("{error:#}") }),
        }
    }

    fn put_json(&mut self, name: &str, value: anyhow::Result<impl Serialize>) {
        self.put(name, value.and_then(|value| Ok(serde_json::to_vec_pretty(&value)?)));
    }

    fn put_file(&mut self, name: &str, path: &Path) {
        self.put(name, std::fs::read(path).with_context(|| format!("cannot read {}", path.display())));
    }
}

pub(super) async fn all(doctor: &Doctor) -> Collected {
    let mut collected = Collected::default();
    collected.put_json("version.json", Ok(version(doctor)));
    collected.put_json("config.json", doctor.config.as_ref().map_err(|error| anyhow::anyhow!("{error}")));
    collected.put_json("doctor.json", Ok(doctor.examine().await));
    processes(doctor, &mut collected).await;
    files(doctor, &mut collected);
    logs(doctor, &mut collected);
    collected.put("nftables.txt", Ok(tables()));
    collected.put("network.txt", network().await);
    collected.put("metrics.txt", metrics(doctor).await);
    collected.put_json("events.json", events(doctor).await);
    collected
}

fn version(doctor: &Doctor) -> Value {
    json!({
        "selvedge": env!("CARGO_PKG_VERSION"),
        "kernel": doctor.host.read("/proc/sys/kernel/osrelease"),
        "system": doctor.host.read("/proc/version"),
        "distribution": doctor.host.read("/etc/os-release"),
    })
}

fn interface(doctor: &Doctor) -> &str {
    doctor.config.as_ref().map_or("selvedge0", |config| &config.interface)
}

/// What agent and tunnel say.
async fn processes(doctor: &Doctor, collected: &mut Collected) {
    let tunnel = doctor.paths.tunnel_socket(interface(doctor));
    for (name, socket) in [("agent-status.json", doctor.paths.agent_socket()), ("tunnel-status.json", tunnel)]
    {
        let client = Client::new(&socket).with_timeout(DEADLINE);
        collected.put_json(
            name,
            client.get::<Value>("/v1/status").await.map_err(|error| anyhow::anyhow!("{error}")),
        );
    }
}

fn files(doctor: &Doctor, collected: &mut Collected) {
    let (host, paths) = (&doctor.host, &doctor.paths);
    collected.put_file("tunnel-config.json", &paths.tunnel_config(interface(doctor)));
    collected.put_file("records.json", &paths.records());
    collected.put_file("node.json", &paths.node());
    // Names, modes and sizes: nothing in it is opened.
    let store = paths.keys();
    let listed = keys::entries(&store).with_context(|| format!("cannot list {}", store.display()));
    collected.put_json("key-store.json", listed);
    let own = fabric::sysctls(Some(interface(doctor)), true, true);
    let keys = own.iter().map(|(key, _)| key.as_str()).chain(SYSCTLS);
    let values: BTreeMap<_, _> = keys.map(|key| (key.to_owned(), host.sysctl(key))).collect();
    collected.put_json("sysctls.json", Ok(values));
    for name in COUNTERS {
        let file = format!("counters-{}.txt", name.replace('/', "-"));
        collected.put_file(&file, &host.path(format!("/proc/net/{name}")));
    }
}

/// What our containers say, where they are on this node and their logs are to be seen.
fn logs(doctor: &Doctor, collected: &mut Collected) {
    let folder = doctor.host.path(log::FOLDER);
    let missing = match log::read(&folder) {
        Ok(logs) if logs.is_empty() => format!("no container of ours has a log in {}", folder.display()),
        Ok(logs) => return collected.files.extend(logs),
        Err(error) => format!("cannot list {}: {error}", folder.display()),
    };
    let why = format!("{missing}; on another machine: kubectl --namespace selvedge-system logs POD");
    collected.missing.push(Missing { what: "logs".into(), why });
}

/// Our tables.
fn tables() -> Vec<u8> {
    let names = [
        (Family::Inet, guard::TABLE),
        (Family::Inet, egress::TABLE),
        (Family::Inet, service::table::TABLE),
        (Family::Netdev, spoof::TABLE),
        (Family::Bridge, spoof::TABLE),
        (Family::Inet, spoof::TABLE),
        (Family::Arp, spoof::TABLE),
        (Family::Inet, hostport::TABLE),
    ];
    let one = |(family, name): (Family, &str)| match nft::read(family, name) {
        Ok(Some(state)) => render::table(&state),
        Ok(None) => format!("table {family} {name} is not there\n"),
        Err(error) => format!("table {family} {name} cannot be read: {error}\n"),
    };
    names.map(one).concat().into_bytes()
}

/// Our devices, routes and rules.
async fn network() -> anyhow::Result<Vec<u8>> {
    let netlink = Netlink::new()?;
    let mut text = String::from("devices\n");
    for link in netlink.links().await?.iter().filter(|link| link.group == LINK_GROUP) {
        text += &render::link(link);
    }
    text += "routes\n";
    netlink.routes().await?.iter().for_each(|route| text += &format!("{route}\n"));
    text += "rules\n";
    netlink.rules().await?.iter().for_each(|rule| text += &format!("{rule}\n"));
    Ok(text.into_bytes())
}

async fn metrics(doctor: &Doctor) -> anyhow::Result<Vec<u8>> {
    const DEFAULT: &str = "127.0.0.1:51831";
    let address = match &doctor.config {
        Ok(config) => config.agent.metrics_address,
        Err(_) => DEFAULT.parse().expect("it is an address"),
    };
    tokio::time::timeout(DEADLINE, get_metrics(address)).await.context("the agent's metrics take too long")?
}

async fn get_metrics(address: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("no agent at {address}"))?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("ask for metrics")?;
    let mut answer = Vec::new();
    stream.take(METRICS).read_to_end(&mut answer).await.context("read metrics")?;
    if answer.len() as u64 == METRICS {
        answer.extend_from_slice(b"\n# cut off here\n");
    }
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").context("the metrics are no HTTP")?;
    Ok(answer.split_off(head + 4))
}

/// Our Events, as long as the API server keeps them: an hour, usually.
async fn events(doctor: &Doctor) -> anyhow::Result<Vec<Event>> {
    let access = doctor.cluster.as_ref().context("the cluster was left out")?;
    let mut config = api_server::configuration(access.kubeconfig.as_deref(), "support").await?;
    (config.connect_timeout, config.read_timeout) = (Some(DEADLINE), Some(DEADLINE));
    config.default_retry = false;
    let events: Api<Event> = Api::namespaced(Kubernetes::try_from(config)?, "default");
    let (mut ours, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
    for _ in 0..PAGES {
        let list = events.list(&page).await.context("the API server gives no Events")?;
        ours.extend(list.items.into_iter().filter(is_ours).map(bare));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if ours.len() < EVENTS => page = page.continue_token(&token),
            _ => break,
        }
    }
    ours.truncate(EVENTS);
    Ok(ours)
}

fn is_ours(event: &Event) -> bool {
    event.reporting_controller.as_deref() == Some(REPORTING_CONTROLLER)
}

/// Without what anybody may have hung on to it.
fn bare(mut event: Event) -> Event {
    let metadata = &mut event.metadata;
    (metadata.managed_fields, metadata.annotations, metadata.labels) = (None, None, None);
    event
}
