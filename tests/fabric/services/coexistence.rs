//! Takeover from another proxy, which here answers on kube-proxy's ports and has rules in a table of kube-proxy's name.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use selvedge::agent::status::AgentStatus;
use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{self, Family as Nft};
use selvedge::local::Client;
use selvedge_lab::isolated;
use selvedge_lab::plan::{Datapath, Family};
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic;
use serde_json::json;

use super::{Cluster, FAMILIES, PORT, SOON};

/// A takeover takes 15 to 30 s in either direction.
const TAKEOVER: Duration = Duration::from_secs(60);
const PORTS: [u16; 2] = [10_249, 10_256];

/// Another proxy on a node. Like kube-proxy it leaves its rules in the kernel, and retries until it can bind its ports.
struct Proxy {
    ends: Arc<AtomicBool>,
    complete: Arc<AtomicBool>,
    bound: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// With rules that lead from the Service's addresses to these.
    fn start(ns: &NetNs, service: u8, endpoints: &[IpAddr]) -> Self {
        let mut proxy = Self {
            ends: Arc::default(),
            complete: Arc::default(),
            bound: Arc::default(),
            threads: Vec::new(),
        };
        let rules = rules(service, endpoints);
        ns.run(|| {
            let mut nft = std::process::Command::new("nft");
            assert!(nft.arg(&rules).status().unwrap().success(), "{rules}");
            for port in PORTS {
                let (ends, complete) = (Arc::clone(&proxy.ends), Arc::clone(&proxy.complete));
                let bound = Arc::clone(&proxy.bound);
                proxy.threads.push(std::thread::spawn(move || serve(port, &ends, &complete, &bound)));
            }
        })
        .unwrap();
        proxy
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn rules(service: u8, endpoints: &[IpAddr]) -> String {
    let table = |family: Family, name: &str, address: &str| {
        let (to, endpoint) = (Cluster::service_address(service, family), family.pick(endpoints).unwrap());
        let endpoint = if endpoint.is_ipv6() { format!("[{endpoint}]") } else { endpoint.to_string() };
        format!(
            "table {name} kube-proxy {{ chain services {{ }}; }}
             flush chain {name} kube-proxy services
             table {name} kube-proxy {{
                 chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
                 chain services {{ {address} daddr {to} tcp dport {PORT} dnat to {endpoint}:{}; }}
             }}",
            super::POD_PORT
        )
    };
    [table(Family::V4, "ip", "ip"), table(Family::V6, "ip6", "ip6")].join("\n")
}

fn serve(port: u16, ends: &AtomicBool, complete: &AtomicBool, bound: &AtomicBool) {
    let pause = || std::thread::sleep(Duration::from_millis(20));
    let listener = loop {
        match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
            Ok(listener) => break listener,
            Err(_) if ends.load(Ordering::Relaxed) => return,
            Err(_) => std::thread::sleep(Duration::from_secs(5)),
        }
    };
    bound.store(true, Ordering::Relaxed);
    listener.set_nonblocking(true).unwrap();
    while !ends.load(Ordering::Relaxed) {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                pause();
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        stream.set_nonblocking(false).unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap_or_default();
        let request = String::from_utf8_lossy(&request[..length]).into_owned();
        let written = if complete.load(Ordering::Relaxed) { "1.7e+09" } else { "0" };
        let body = match request.split(' ').nth(1) {
            Some("/proxyMode") => "nftables".to_owned(),
            Some("/metrics") => format!(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family=\"IPv4\"}} 1.7e+09\n\
                 kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family=\"IPv6\"}} {written}\n"
            ),
            _ => "{\"lastUpdated\": \"2026-01-01T00:00:00Z\"}".to_owned(),
        };
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
}

fn has_table(ns: &NetNs, family: Nft, table: &str) -> bool {
    ns.run(|| nft::tables(family).unwrap().contains(table)).unwrap()
}

fn serves(ns: &NetNs) -> bool {
    has_table(ns, Nft::Inet, "selvedge-services")
}

/// What the agent says is wrong with the node.
fn problems(cluster: &Cluster) -> String {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let agent = Client::new("/run/selvedge/agent.sock".as_ref());
        runtime.block_on(agent.get::<AgentStatus>("/v1/status")).map(|status| status.problems)
    };
    let asked = cluster.lab.nodes()[0].space().run(ask).unwrap();
    asked.map_or_else(|error| error.to_string(), |problems| format!("{problems:?}"))
}

/// No connection fails when the agent takes over from another proxy, and when that is back.
#[test]
fn services_survive_the_takeover_from_another_proxy_and_back() {
    isolated!(|| {
        let mut first = None;
        let cluster = Cluster::start_with(Datapath::Bridge, "auto", |lab, far| {
            first = Some(Proxy::start(lab.nodes()[0].space().net(), 1, &far.1));
        });
        let Cluster { lab, near, beside, far, hosts } = &cluster;
        let first = first.unwrap();
        cluster.service(1, &json!({}), &[(beside, "node1"), (far, "node2")]);
        // The other nodes have no other proxy.
        wait_for("node2 to serve", SOON, || serves(&hosts[1])).unwrap();
        for family in FAMILIES {
            let at = SocketAddr::new(Cluster::service_address(1, family), PORT);
            wait_for("the other proxy", SOON, || traffic::ask(&near.0, at, lab.canary()).is_ok()).unwrap();
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = FAMILIES.map(|family| {
                let done = &done;
                scope.spawn(move || {
                    let at = SocketAddr::new(Cluster::service_address(1, family), PORT);
                    let mut count = 0;
                    while !done.load(Ordering::Relaxed) {
                        if let Err(error) = traffic::ask(&near.0, at, lab.canary()) {
                            done.store(true, Ordering::Relaxed);
                            panic!("request {count} to {at}: {error}");
                        }
                        count += 1;
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    count
                })
            });
            // It is a failed request that ends a wait early.
            let wait = |what: &str, holds: &dyn Fn() -> bool| {
                println!("waiting for {what}");
                let waited = wait_for(what, TAKEOVER, || done.load(Ordering::Relaxed) || holds());
                waited.unwrap_or_else(|error| {
                    done.store(true, Ordering::Relaxed);
                    panic!("{error}; {}", problems(&cluster));
                });
            };
            std::thread::sleep(Duration::from_secs(7));
            assert!(!serves(&hosts[0]) || done.load(Ordering::Relaxed), "two serve");
            first.end();
            wait("the agent to serve", &|| serves(&hosts[0]));
            wait("what is left to be reported", &|| problems(&cluster).contains("removeKubeProxyRules"));
            let second = Proxy::start(&hosts[0], 1, &far.1);
            wait("the ports to be given up", &|| second.bound.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_secs(7));
            assert!(serves(&hosts[0]) || done.load(Ordering::Relaxed), "the other one has not all its rules");
            second.complete.store(true, Ordering::Relaxed);
            wait("the agent to stop serving", &|| !serves(&hosts[0]));
            let node = &lab.nodes()[0];
            node.agent.hold();
            let file = node.disk().join("etc/config.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, format!("removeKubeProxyRules = true\n{text}")).unwrap();
            node.agent.resume();
            std::thread::sleep(Duration::from_secs(3));
            assert!(has_table(&hosts[0], Nft::Ipv4, "kube-proxy"), "that of a proxy that lives");
            second.end();
            wait("what is left to go", &|| {
                [Nft::Ipv4, Nft::Ipv6].iter().all(|family| !has_table(&hosts[0], *family, "kube-proxy"))
            });
            assert!(serves(&hosts[0]) || done.load(Ordering::Relaxed));
            done.store(true, Ordering::Relaxed);
            asking.into_iter().for_each(|thread| println!("{} requests", thread.join().unwrap()));
        });
        cluster.nothing_leaked();
    });
}
