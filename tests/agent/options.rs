//! Every option of the configuration has an effect: a node with all of them other than by default, and what each does.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use selvedge::agent::status::AgentStatus;
use selvedge::forwarding;
use selvedge::kernel::LINK_GROUP;
use selvedge::kernel::iptables::{FILTER, FORWARD};
use selvedge::kernel::link::{self, Id, Link};
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::nft::{self, Chain, ChainKind, Family, Hook, Meta, Rule, Table, octets};
use selvedge::kernel::sysctl;
use selvedge::local::Client;
use selvedge::pod::install::{CONFLIST, PLUGIN};
use selvedge_keys::KeyStore;
use selvedge_lab::api::resource::{NODES, SERVICES};
use selvedge_lab::isolated;
use selvedge_lab::node::{TUNNEL_DEVICE, environment};
use selvedge_lab::process::{Process, Program};
use selvedge_lab::space::DISK;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const INTERFACE: &str = "fabric9";
const MARK: u32 = 0x5183;
/// Counts what has the mark.
const MARKED: &str = "marked";

fn configuration(address: IpAddr) -> String {
    format!(
        r#"
clusterPodCIDRs = ["10.244.0.0/16", "fd00:10:244::/56"]
serviceCIDRs = ["10.96.0.0/16", "fd00:10:96::/112"]
nonMasqueradeCIDRs = ["198.51.100.0/24"]
trustedSources = ["203.0.113.0/24"]
nodeName = "node1"
interface = "{INTERFACE}"
listenPort = 51999
mtu = 1450
endpoints = ["{address}"]
persistentKeepalive = 21
location = "site-a"
datapath = "routed"
firewallMark = {MARK}
iptablesForwardRules = true
services = "on"
removeKubeProxyRules = true
nodePortAddresses = ["localhost"]
[conntrack]
max = 2000000000
tcpEstablishedTimeout = 4321
tcpCloseWaitTimeout = 123
[keys]
cryptoperiod = "3d"
rotate = "auto"
custodian = "The Custodian"
minimumInterval = "259199s"
warnBefore = "3d"
[cni]
binDir = "{DISK}/other/bin"
confDir = "{DISK}/other/net.d"
[agent]
metricsAddress = "127.0.0.1:59831"
kubeconfig = "{DISK}/etc/other"
startupTaint = "example.com/wait"
missingNodeGrace = 0
"#
    )
}

/// Node1, whose agent and tunnel have been started with all options.
struct Configured {
    cluster: Cluster,
    _processes: [Process; 3],
}

impl Configured {
    fn start() -> Self {
        let cluster = Cluster::start();
        let node = &cluster.lab.nodes()[0];
        node.hold();
        let etc = node.disk().join("etc");
        std::fs::write(etc.join("options.toml"), configuration(node.addresses()[0])).unwrap();
        std::fs::rename(etc.join("kubeconfig"), etc.join("other")).unwrap();
        make_key_old(node.disk());
        let space = node.space();
        rename_host(space.files()[2]);
        let delete = || {
            block_on(async {
                let device = link::delete(Id::Name(TUNNEL_DEVICE));
                Netlink::new().unwrap().apply([device]).await.unwrap();
            });
        };
        space.run(delete).unwrap();
        let marked = Rule::new().meta(Meta::Mark, MARK.to_ne_bytes()).count(MARKED);
        let mut table = Table::new(Family::Inet, MARKED);
        table.counter(MARKED).chain("out", Chain::base(ChainKind::Filter, Hook::Output, 0, vec![marked]));
        let mut filter = Table::new(Family::Ipv4, FILTER);
        filter.chain(FORWARD, Chain::base(ChainKind::Filter, Hook::Forward, 0, vec![]));
        space.run(|| nft::apply(&[table, filter]).map(drop).unwrap()).unwrap();
        let run = |what: &str, args: &[&str]| {
            let mut env = environment();
            env.retain(|(name, _)| name != "SELVEDGE_CONFIG");
            env.push(("SELVEDGE_CONFIG".into(), format!("{DISK}/etc/options.toml").into()));
            let (name, log) =
                (format!("configured-{what}"), node.tunnel.log().with_file_name(format!("{what}.log")));
            let (binary, args) =
                (env!("CARGO_BIN_EXE_selvedge").into(), args.iter().map(Into::into).collect());
            Process::start(Program { name, binary, args, env, log }, Arc::clone(&space))
        };
        let tunnel = ["tunnel", INTERFACE, "--managed"];
        let processes = [run("ports", &["ports"]), run("tunnel", &tunnel), run("agent", &["agent"])];
        Self { cluster, _processes: processes }
    }

    fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.cluster.lab.nodes()[0].space().run(body).unwrap()
    }

    fn status(&self) -> Option<AgentStatus> {
        self.cluster.status(0)
    }

    fn object(&self) -> Value {
        Value::clone(&self.cluster.lab.store().get(&NODES, "", "node1").unwrap())
    }

    fn annotation(&self, name: &str) -> Value {
        self.object()["metadata"]["annotations"][format!("selvedge.dev/{name}")].clone()
    }

    fn link(&self) -> Option<Link> {
        self.run(|| block_on(async { Netlink::new().unwrap().link_named(INTERFACE).await.unwrap() }))
    }

    /// Whether a set in a table of the node begins a range with this address.
    fn has_range(&self, table: &str, address: [u8; 4]) -> bool {
        let state = self.run(|| nft::read(Family::Inet, table).unwrap());
        let begins = octets(IpAddr::from(Ipv4Addr::from(address)));
        let mut sets = state.into_iter().flat_map(|state| state.table.sets.into_values());
        sets.any(|set| set.elements.keys().any(|key| key.first() == begins))
    }

    fn timeout(&self, state: &str) -> u32 {
        let key = format!("netfilter/nf_conntrack_tcp_timeout_{state}");
        self.run(|| sysctl::read(&key).unwrap()).parse().unwrap()
    }

    fn metric(&self, name: &str) -> Option<i64> {
        let ask = || {
            let mut stream = TcpStream::connect("127.0.0.1:59831").ok()?;
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: node1\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        };
        let text = self.run(ask)?;
        text.lines().find_map(|line| line.strip_prefix(&format!("selvedge_{name} "))?.parse().ok())
    }

    fn is_on_disk(&self, path: &str) -> bool {
        self.cluster.lab.nodes()[0].disk().join(path).exists()
    }

    /// A taint of the default key stays, one of the configured goes.
    fn taints(&self) -> Vec<String> {
        let object = self.object();
        let taints = object["spec"]["taints"].as_array().into_iter().flatten();
        taints.map(|taint| taint["key"].as_str().unwrap().to_owned()).collect()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A key whose cryptoperiod has ended.
fn make_key_old(disk: &Path) {
    let store = KeyStore::open(disk.join("state/keys")).unwrap();
    store.supersede(0, Timestamp::now() - SignedDuration::from_hours(4 * 24)).unwrap();
}

/// A node's name is that of its host by default.
fn rename_host(uts: &std::fs::File) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::setns(uts, nix::sched::CloneFlags::CLONE_NEWUTS).unwrap();
            nix::unistd::sethostname("another").unwrap();
        });
    });
}

type Effect = fn(&Configured) -> bool;

/// What each option does, by its name in the file.
const EFFECTS: [(&str, Effect); 31] = [
    ("clusterPodCIDRs", |node| node.has_range(selvedge::guard::TABLE, [10, 244, 0, 0])),
    ("serviceCIDRs", |node| node.has_range(selvedge::guard::TABLE, [10, 96, 0, 0])),
    ("nonMasqueradeCIDRs", |node| node.has_range(selvedge::egress::TABLE, [198, 51, 100, 0])),
    ("trustedSources", |node| node.has_range(selvedge::guard::TABLE, [203, 0, 113, 0])),
    ("nodeName", |node| node.status().is_some_and(|status| status.node == "node1")),
    ("interface", |node| node.link().is_some_and(|link| link.group == LINK_GROUP)),
    ("listenPort", |node| {
        node.status().and_then(|status| status.tunnel).is_some_and(|tunnel| tunnel.listen_port == 51999)
    }),
    ("mtu", |node| node.link().is_some_and(|link| link.mtu == 1450 - 80)),
    ("endpoints", |node| {
        let address = node.cluster.lab.nodes()[0].addresses()[0];
        node.annotation("endpoints") == SocketAddr::new(address, 51999).to_string()
    }),
    ("persistentKeepalive", |node| {
        let peer = crate::cluster::peer(&node.cluster, "node2");
        peer.is_some_and(|peer| peer.persistent_keepalive == Some(21))
    }),
    ("location", |node| node.annotation("location") == "site-a"),
    ("datapath", |node| {
        node.run(|| sysctl::read("ipv4/conf/all/src_valid_mark").unwrap() == "1")
            && std::fs::read_to_string(node.cluster.lab.nodes()[0].disk().join("state/node.json"))
                .is_ok_and(|text| text.contains("\"datapath\": \"routed\""))
    }),
    ("firewallMark", |node| node.run(|| nft::counters(Family::Inet, MARKED).unwrap()[MARKED].packets > 0)),
    ("iptablesForwardRules", |node| node.run(|| !forwarding::kept().unwrap().is_empty())),
    ("services", |node| {
        node.run(|| nft::tables(Family::Inet).unwrap().contains(selvedge::service::table::TABLE))
    }),
    ("removeKubeProxyRules", |node| {
        let left = Table::new(Family::Ipv4, "kube-proxy");
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| node.run(|| drop(nft::apply(&[left]).unwrap())));
        node.run(|| !nft::tables(Family::Ipv4).unwrap().contains("kube-proxy"))
    }),
    ("nodePortAddresses", |node| {
        // Nothing but loopback: the node's own address has none.
        let store = node.cluster.lab.store();
        let ports = serde_json::json!([{"port": 80, "nodePort": 30_080, "protocol": "TCP"}]);
        let service = serde_json::json!({"metadata": {"name": "web", "namespace": "default"}, "spec":
            {"type": "NodePort", "clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"], "ports": ports}});
        let _ = store.create(&SERVICES, service); // at the first call
        let elements = node.run(|| {
            let table = nft::read(Family::Inet, selvedge::service::table::TABLE).unwrap();
            table.map_or(0, |state| state.table.sets["outside4"].elements.len())
        });
        elements == 0 && node.run(|| TcpStream::connect("127.0.0.1:30080").is_ok())
    }),
    ("conntrack.max", |node| {
        // In a network namespace the kernel refuses it.
        let log = node.cluster.lab.nodes()[0].tunnel.log().with_file_name("agent.log");
        std::fs::read_to_string(log).is_ok_and(|text| text.contains("nf_conntrack_max to 2000000000"))
    }),
    ("conntrack.tcpEstablishedTimeout", |node| node.timeout("established") == 4321),
    ("conntrack.tcpCloseWaitTimeout", |node| node.timeout("close_wait") == 123),
    ("keys.cryptoperiod", |node| {
        let created = node.metric("key_created_timestamp_seconds");
        created
            .is_some_and(|created| node.metric("key_expiry_timestamp_seconds") == Some(created + 3 * 86_400))
    }),
    ("keys.rotate", |node| node.metric("key_rotating") == Some(1) || node.annotation("key-epoch") == "3"),
    ("keys.custodian", |node| {
        let warned =
            |problem: &String| problem.starts_with("key-age: ") && problem.ends_with("The Custodian");
        node.status().is_some_and(|status| status.problems.iter().any(warned))
    }),
    ("keys.minimumInterval", |node| {
        let created = node.metric("key_created_timestamp_seconds");
        created.is_some_and(|created| {
            node.metric("key_rotation_due_timestamp_seconds") == Some(created + 3 * 86_400 - 1)
        })
    }),
    // Of the new key too, as it is warned of from the start.
    ("keys.warnBefore", |node| node.cluster.has_event("node1", "KeyExpiring")),
    ("cni.binDir", |node| node.is_on_disk(&format!("other/bin/{PLUGIN}"))),
    ("cni.confDir", |node| node.is_on_disk(&format!("other/net.d/{CONFLIST}"))),
    ("agent.metricsAddress", |node| node.run(|| TcpStream::connect("127.0.0.1:59831").is_ok())),
    ("agent.kubeconfig", |node| node.status().is_some_and(|status| status.ready)),
    ("agent.startupTaint", |node| node.taints() == ["selvedge.dev/not-ready"]),
    // The last one: node2 is no longer a peer.
    ("agent.missingNodeGrace", |node| {
        let _ = node.cluster.lab.store().lose(&NODES, "", "node2"); // at the first call
        crate::cluster::peer(&node.cluster, "node2").is_none()
    }),
];

/// The options that the reference page names, those of a table with its name before them.
fn documented() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/config.md");
    let (mut table, mut keys) = (String::new(), BTreeSet::new());
    for line in std::fs::read_to_string(page).unwrap().lines() {
        let line = line.strip_prefix("#= ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            keys.insert(format!("{table}{key}"));
        }
    }
    keys
}

#[test]
fn every_documented_option_has_an_effect() {
    let effects: BTreeMap<&str, Effect> = EFFECTS.into();
    let tried: BTreeSet<String> = effects.keys().map(|&key| key.to_owned()).collect();
    assert_eq!(documented(), tried, "an option is documented and not tried here, or the other way round");
    isolated!(|| {
        let node = Configured::start();
        let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
        let taints =
            json!({"spec": {"taints": [taint("example.com/wait"), taint("selvedge.dev/not-ready")]}});
        node.cluster.lab.store().patch(&NODES, "", "node1", &taints).unwrap();
        for (option, effect) in EFFECTS {
            node.cluster.wait_for(&format!("the effect of `{option}`"), |_| effect(&node));
        }
        // The command line finds the same agent, and what it runs with.
        let config: Value = node
            .run(|| block_on(Client::new("/run/selvedge/agent.sock".as_ref()).get("/v1/config")).unwrap());
        assert_eq!((&config["interface"], &config["location"]), (&json!(INTERFACE), &json!("site-a")));
    });
}
