//! Services as the agent serves them: from pods, hosts and outside, in both families, same node and across nodes.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge_lab::api::resource::{ENDPOINT_SLICES, SERVICES};
use selvedge_lab::isolated;
use selvedge_lab::lab::Lab;
use selvedge_lab::packet::transport_checksum;
use selvedge_lab::plan::{Datapath, Families, Family};
use selvedge_lab::process::{Process, Program, wait_for};
use selvedge_lab::traffic::{self, Canary};
use selvedge_lab::wire::Wire;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::lab_with;

mod coexistence;
mod events;
mod ranges;
mod trace;

const SOON: Duration = Duration::from_secs(20);
const POD_PORT: u16 = 8080;
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

type Pod = (Arc<NetNs>, Vec<IpAddr>);

/// Three nodes, with two pods on the first and one on the second.
struct Cluster {
    lab: Lab,
    near: Pod,
    beside: Pod,
    far: Pod,
    hosts: Vec<NetNs>,
}

/// Name of a backend and the source that it has seen.
type Seen = (String, IpAddr);

impl Cluster {
    fn start(datapath: Datapath) -> Self {
        Self::start_with(datapath, "on", |_, _| {})
    }

    /// `before` is done with the pod `far`, before the agents begin to serve as `services` says.
    fn start_with(datapath: Datapath, services: &str, before: impl FnOnce(&Lab, &Pod)) -> Self {
        let lab = lab_with(Families::Dual, 3, datapath);
        let pod = |name, node| lab.create_pod(name, node, &[("main", POD_PORT)]).unwrap();
        let (near, beside, far) = (pod("near", "node1"), pod("beside", "node1"), pod("far", "node2"));
        before(&lab, &far);
        for node in lab.nodes() {
            node.agent.hold();
            let file = lab.options().folder.join("nodes").join(node.name()).join("etc/config.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, format!("services = \"{services}\"\n{text}")).unwrap();
            node.agent.resume();
        }
        let hosts =
            lab.nodes().iter().map(|node| node.space().run(NetNs::current).unwrap().unwrap()).collect();
        Self { lab, near, beside, far, hosts }
    }

    /// The Service's own address.
    fn service_address(number: u8, family: Family) -> IpAddr {
        match family {
            Family::V4 => format!("10.96.7.{number}").parse().unwrap(),
            Family::V6 => format!("fd00:10:96::7{number:02}").parse().unwrap(),
        }
    }

    /// Creates a Service with these fields beside the usual ones, `number` of its kind.
    fn service(&self, number: u8, spec: &Value, endpoints: &[(&Pod, &str)]) {
        let ports: Vec<Value> = ["TCP", "UDP"]
            .into_iter()
            .map(|protocol| {
                let node_port = NODE_PORT + u16::from(number);
                json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "nodePort": node_port})
            })
            .collect();
        let addresses = FAMILIES.map(|family| Self::service_address(number, family));
        let mut object = json!({"metadata": {"name": format!("service{number}"), "namespace": "default"}, "spec": {
            "type": "NodePort", "clusterIP": addresses[0], "clusterIPs": addresses, "ports": ports,
        }});
        spec.as_object().unwrap().iter().for_each(|(key, value)| object["spec"][key] = value.clone());
        self.lab.store().create(&SERVICES, object).unwrap();
        for family in FAMILIES {
            self.lab.store().create(&ENDPOINT_SLICES, slice(number, family, endpoints)).unwrap();
        }
    }

    fn set_endpoints(&self, number: u8, endpoints: &[(&Pod, &str)]) {
        for family in FAMILIES {
            let slice = slice(number, family, endpoints);
            let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
            self.lab.store().patch(&ENDPOINT_SLICES, "default", &name, &slice).unwrap();
        }
    }

    fn own(&self, family: Family) -> (IpAddr, IpAddr) {
        let node = &self.lab.nodes()[0];
        (family.pick(&node.addresses()).unwrap(), family.pick(&node.fabric_addresses()).unwrap())
    }

    /// Who answers TCP and UDP at `to`, asked until all that is `expected` has been seen, and nobody else.
    #[track_caller]
    fn assert_answers(&self, ns: &NetNs, to: SocketAddr, canary: &Canary, expected: &[(&str, IpAddr)]) {
        let expected: BTreeSet<Seen> =
            expected.iter().map(|(name, source)| (format!("{name}/main"), *source)).collect();
        let ask = |udp: bool| match udp {
            false => traffic::ask(ns, to, canary),
            true => traffic::ask_udp(ns, to, canary, traffic::TIMEOUT),
        };
        for udp in [false, true] {
            let first = wait_for("the Service to answer", SOON, || ask(udp).is_ok());
            first
                .unwrap_or_else(|error| panic!("{to}, UDP {udp}: {error}: {:?}", ask(udp).map(|it| it.told)));
            let mut seen = BTreeSet::new();
            for _ in 0..200 {
                let told = ask(udp).unwrap_or_else(|error| panic!("{to}, UDP {udp}: {error}")).told;
                seen.insert((told.name, told.source.ip()));
                if seen == expected {
                    break;
                }
            }
            assert_eq!(seen, expected, "at {to}, UDP {udp}");
        }
    }

    /// Waits until TCP is refused at once.
    #[track_caller]
    fn assert_refused(&self, ns: &NetNs, to: SocketAddr) {
        let refused = || {
            let Err(traffic::Error::Socket { source, .. }) = traffic::ask(ns, to, self.lab.canary()) else {
                return false;
            };
            source.kind() == ErrorKind::ConnectionRefused
        };
        wait_for("a refusal", SOON, refused).unwrap_or_else(|error| panic!("{to}: {error}"));
    }

    /// Nothing of the cluster was on any link since the lab was started, and the captures would have seen it.
    fn nothing_leaked(&self) {
        self.lab.plant().unwrap();
        for seen in self.lab.capture().seen().unwrap() {
            assert_eq!((seen.leaks, seen.drops), (0, 0), "{}: {:?}", seen.link, seen.examples);
            assert!(seen.found == seen.planted && seen.planted > 0, "{seen:?}");
        }
    }
}

fn slice(number: u8, family: Family, endpoints: &[(&Pod, &str)]) -> Value {
    let (kind, digit) = match family {
        Family::V4 => ("IPv4", 4),
        Family::V6 => ("IPv6", 6),
    };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(pod, node)| json!({"addresses": [family.pick(&pod.1).unwrap()], "nodeName": node}))
        .collect();
    let ports = ["TCP", "UDP"]
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": POD_PORT}));
    json!({
        "metadata": {"name": format!("service{number}-{digit}"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("service{number}")}},
        "addressType": kind, "endpoints": endpoints, "ports": ports,
    })
}

#[test]
fn services_are_served() {
    isolated!(|| served(&Cluster::start(Datapath::Bridge)));
}

#[test]
fn services_are_served_where_pods_have_no_bridge() {
    isolated!(|| served(&Cluster::start(Datapath::Routed)));
}

fn served(cluster: &Cluster) {
    let Cluster { lab, near, beside, far, hosts } = cluster;
    let secret = lab.canary();
    // What the internet asks may be read on its way to the node.
    let plain = Canary::random().unwrap();
    let both = [(beside, "node1"), (far, "node2")];
    cluster.service(1, &json!({}), &both);
    cluster.service(2, &json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}), &both);
    cluster.service(3, &json!({"externalTrafficPolicy": "Local"}), &[(far, "node2")]);
    cluster.service(4, &json!({}), &[]);
    cluster.service(5, &json!({}), &[(near, "node1")]);
    for family in FAMILIES {
        let at = |number| SocketAddr::new(Cluster::service_address(number, family), PORT);
        let (own, fabric) = cluster.own(family);
        let node_port = |number: u8| SocketAddr::new(own, NODE_PORT + u16::from(number));
        let pod = |pod: &Pod| family.pick(&pod.1).unwrap();
        let from_near = [("beside", pod(near)), ("far", pod(near))];
        // A pod keeps its source to every address.
        cluster.assert_answers(&near.0, at(1), secret, &from_near);
        cluster.assert_answers(&near.0, node_port(1), secret, &from_near);
        cluster.assert_answers(&near.0, at(2), secret, &from_near[..1]);
        cluster.assert_answers(&near.0, node_port(2), secret, &from_near);
        cluster.assert_answers(&near.0, node_port(3), secret, &from_near[1..]);
        // From outside: what another node's pod is to answer, and here all, comes from the fabric address.
        let from_fabric = [("beside", fabric), ("far", fabric)];
        cluster.assert_answers(lab.internet(), node_port(1), &plain, &from_fabric);
        let client = traffic::ask(lab.internet(), node_port(2), &plain).unwrap().told.source.ip();
        assert!(client != fabric && client != own, "{client}");
        cluster.assert_answers(lab.internet(), node_port(2), &plain, &[("beside", client)]);
        let silent = traffic::ask_udp(lab.internet(), node_port(3), &plain, Duration::from_millis(300));
        assert!(silent.is_err(), "no endpoint here");
        // Another node's pod is somebody outside.
        cluster.assert_answers(&far.0, node_port(1), secret, &from_fabric);
        cluster.assert_answers(&far.0, node_port(2), secret, &[("beside", pod(far))]);
        // The node itself.
        cluster.assert_answers(&hosts[0], node_port(3), secret, &[("far", own)]);
        cluster.assert_answers(&hosts[0], at(1), secret, &[("beside", own), ("far", own)]);
        for (ns, target) in
            [(&*near.0, at(4)), (&hosts[0], at(4)), (&*near.0, node_port(4)), (lab.internet(), node_port(4))]
        {
            cluster.assert_refused(ns, target);
        }
        // A port that the Service has not.
        cluster.assert_refused(&near.0, SocketAddr::new(at(1).ip(), PORT + 1));
        // A pod that is its own endpoint.
        cluster.assert_answers(&near.0, at(5), secret, &[("near", fabric)]);
        cluster.assert_answers(&near.0, node_port(5), secret, &[("near", fabric)]);
    }
    cluster.set_endpoints(4, &[(far, "node2")]);
    cluster.set_endpoints(1, &[]);
    for family in FAMILIES {
        let at = |number| SocketAddr::new(Cluster::service_address(number, family), PORT);
        let source = family.pick(&near.1).unwrap();
        cluster.assert_answers(&near.0, at(4), secret, &[("far", source)]);
        cluster.assert_refused(&near.0, at(1));
    }
    cluster.nothing_leaked();
}

#[test]
fn what_conntrack_cannot_place_does_not_reach_the_client() {
    isolated!(|| strays(&Cluster::start(Datapath::Bridge)));
}

#[test]
fn what_conntrack_cannot_place_does_not_reach_the_client_where_pods_have_no_bridge() {
    isolated!(|| strays(&Cluster::start(Datapath::Routed)));
}

/// A segment that belongs to no window does not reach the client from the backend's own address.
fn strays(cluster: &Cluster) {
    let Cluster { lab, near, beside, far, .. } = cluster;
    cluster.service(1, &json!({}), &[(beside, "node1")]);
    cluster.service(2, &json!({}), &[(far, "node2")]);
    for (number, backend) in [(1, beside), (2, far)] {
        for family in FAMILIES {
            let to = SocketAddr::new(Cluster::service_address(number, family), PORT);
            wait_for("the Service", SOON, || traffic::ask(&near.0, to, lab.canary()).is_ok()).unwrap();
            let mut stream = near.0.run(|| TcpStream::connect(to)).unwrap().unwrap();
            let wire = Wire::open(&near.0, "eth0").unwrap();
            let address = family.pick(&backend.1).unwrap();
            let from = SocketAddr::new(address, POD_PORT);
            backend.0.run(|| send_stray(from, stream.local_addr().unwrap())).unwrap().unwrap();
            let source = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let at = if family == Family::V4 { 26 } else { 22 };
            let is_stray = |frame: &[u8]| frame.get(at..at + source.len()) == Some(&source);
            let deadline = Instant::now() + Duration::from_millis(500);
            let stray = wire.find(deadline, is_stray).unwrap();
            assert_eq!(stray, None, "{to}");
            write!(stream, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains("200 OK"), "{to}: {answer}");
        }
    }
}

/// Sends a TCP segment of one byte, far from what the connection is at.
fn send_stray(from: SocketAddr, to: SocketAddr) -> std::io::Result<()> {
    let mut segment = Vec::new();
    segment.extend([from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
    segment.extend([[1, 2, 3, 4], [5, 6, 7, 8]].concat());
    segment.extend([5 << 4, 0x18, 1, 0, 0, 0, 0, 0, b'x']);
    let sum = transport_checksum(from.ip(), to.ip(), 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
    let without_port = |address: SocketAddr| SocketAddr::new(address.ip(), 0).into();
    socket.bind(&without_port(from))?;
    socket.send_to(&segment, &without_port(to)).map(drop)
}

/// Status and body of the answer to a GET.
fn get(ns: &NetNs, to: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let answer = ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    });
    let answer = answer.map_err(std::io::Error::other)??;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
    Ok((status.ok_or(ErrorKind::InvalidData)?, body))
}

/// Load balancers are told where endpoints are, also while the agent is away and while another holder takes over.
#[test]
fn health_checks_are_answered_without_the_agent() {
    isolated!(|| {
        const CHECK: u16 = 31_001;
        let cluster = Cluster::start(Datapath::Bridge);
        let Cluster { lab, beside, far, hosts, .. } = &cluster;
        let spec =
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": CHECK});
        cluster.service(1, &spec, &[(beside, "node1"), (far, "node2")]);
        let at = |node: usize, family: Family, port| {
            SocketAddr::new(family.pick(&lab.nodes()[node].addresses()).unwrap(), port)
        };
        let answers = |node, family, status: u16| {
            let ask = || get(lab.internet(), at(node, family, CHECK), "/");
            let waited = wait_for("the answer", SOON, || ask().is_ok_and(|answer| answer.0 == status));
            waited.unwrap_or_else(|error| panic!("node{}: {error}: {:?}", node + 1, ask()));
            ask().unwrap().1
        };
        let local = |count| {
            format!(
                r#"{{"localEndpoints":{count},"service":{{"name":"service1","namespace":"default"}},"serviceProxyHealthy":true}}"#
            )
        };
        for family in FAMILIES {
            assert_eq!(answers(0, family, 200), local(1));
            assert_eq!(answers(2, family, 503), local(0));
            let (status, body) = get(lab.internet(), at(0, family, 10_256), "/healthz").unwrap();
            assert!(status == 200 && body.contains(r#""nodeEligible":true"#), "{status} {body}");
        }
        let loopback = SocketAddr::from(([127, 0, 0, 1], 10_249));
        assert_eq!(get(&hosts[0], loopback, "/proxyMode").unwrap(), (200, "nftables".to_owned()));
        cluster.set_endpoints(1, &[(far, "node2")]);
        assert_eq!(answers(0, Family::V4, 503), local(0));
        cluster.set_endpoints(1, &[(beside, "node1")]);
        answers(0, Family::V4, 200);

        let node = &lab.nodes()[0];
        node.agent.hold();
        let mut answered = 0;
        let mut always = |what: &str| {
            for _ in 0..100 {
                let answer = get(lab.internet(), at(0, Family::V4, CHECK), "/");
                assert!(answer.as_ref().is_ok_and(|answer| answer.0 == 200), "{what}: {answer:?}");
                answered += 1;
            }
        };
        always("without the agent");
        let next = Program {
            name: "node1-next-ports".into(),
            binary: env!("CARGO_BIN_EXE_selvedge").into(),
            args: vec!["ports".into()],
            env: Vec::new(),
            log: lab.options().folder.join("logs/node1-next-ports.log"),
        };
        let next = Process::start(next, node.space());
        let serves = || node.space().run(|| held("/run/selvedge/ports.sock")).unwrap();
        let before = serves();
        wait_for("the next holder", SOON, || serves() != before).unwrap();
        always("beside the next holder");
        node.ports.hold();
        always("with the next holder alone");
        node.agent.resume();
        cluster.set_endpoints(1, &[]);
        answers(0, Family::V4, 503);
        drop(next);
    });
}

/// Where that is wanted, node ports are on loopback, too; without the agent as well.
#[test]
fn node_ports_are_on_loopback_where_that_is_wanted() {
    isolated!(|| {
        let cluster = Cluster::start(Datapath::Bridge);
        let Cluster { lab, beside, far, hosts, .. } = &cluster;
        cluster.service(1, &json!({}), &[(beside, "node1"), (far, "node2")]);
        cluster.service(2, &json!({}), &[]);
        let at = |family, number: u16| {
            let address: IpAddr =
                if family == Family::V4 { [127, 0, 0, 1].into() } else { Ipv6Addr::LOCALHOST.into() };
            SocketAddr::new(address, NODE_PORT + number)
        };
        let refused = |family, number| {
            let error = get(&hosts[0], at(family, number), "/").unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset),
                "{error}"
            );
        };
        refused(Family::V4, 1);
        let node = &lab.nodes()[0];
        node.agent.hold();
        let file = node.disk().join("etc/config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("nodePortAddresses = [\"primary\", \"localhost\"]\n{text}")).unwrap();
        node.agent.resume();
        for family in FAMILIES {
            let answers = || get(&hosts[0], at(family, 1), "/").is_ok_and(|answer| answer.0 == 200);
            wait_for("an answer on loopback", SOON, answers).unwrap();
            node.agent.hold();
            for _ in 0..20 {
                assert!(answers());
            }
            refused(family, 2);
            node.agent.resume();
        }
        let counted = || {
            let metrics = get(&hosts[0], ([127, 0, 0, 1], 51_831).into(), "/metrics");
            metrics.is_ok_and(|(_, text)| text.contains("selvedge_loopback_node_port_resets_total 2"))
        };
        wait_for("the resets to be counted", SOON, counted).unwrap();
    });
}

/// Takes the default route away, and leaves one to the other nodes alone.
fn leave_nodes_alone(family: Family) {
    let (digit, nodes, elsewhere) = match family {
        Family::V4 => ("-4", "172.31.0.0/16", "198.51.100.1"),
        Family::V6 => ("-6", "fd00:172:31::/48", "2001:db8:ffff::9"),
    };
    let ip = |arguments: &[&str]| {
        let output = Command::new("ip").arg(digit).args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let default = ip(&["route", "show", "default"]).unwrap();
    let way: Vec<&str> = default.split_whitespace().skip(1).take(4).collect();
    assert!(ip(&[&["route", "add", nodes][..], &way].concat()).is_some(), "{way:?}");
    assert!(ip(&["route", "del", "default"]).is_some());
    assert_eq!(ip(&["route", "get", elsewhere]), None);
}

/// The node's own packets find a way to Services in a family in which the host has none to anywhere else.
#[test]
fn the_node_reaches_services_without_a_default_route() {
    isolated!(|| {
        let cluster = Cluster::start(Datapath::Bridge);
        let Cluster { lab, beside, far, hosts, .. } = &cluster;
        cluster.service(1, &json!({}), &[(beside, "node1"), (far, "node2")]);
        cluster.service(2, &json!({}), &[]);
        for family in FAMILIES {
            let at = |number| SocketAddr::new(Cluster::service_address(number, family), PORT);
            wait_for("the Service", SOON, || traffic::ask(&hosts[0], at(1), lab.canary()).is_ok()).unwrap();
            hosts[0].run(|| leave_nodes_alone(family)).unwrap();
            let (_, fabric) = cluster.own(family);
            let seen = [("beside", fabric), ("far", fabric)];
            cluster.assert_answers(&hosts[0], at(1), lab.canary(), &seen);
            cluster.assert_refused(&hosts[0], at(2));
        }
        cluster.nothing_leaked();
    });
}

/// Which socket is at this path.
fn held(path: &str) -> Option<u64> {
    std::fs::metadata(path).ok().map(|file| std::os::unix::fs::MetadataExt::ino(&file))
}
