//! Nodes leave and join while pods send to them, and to where they will be.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use selvedge::fabric::POD_TABLE;
use selvedge_lab::api::Deletion;
use selvedge_lab::api::resource::NODES;
use selvedge_lab::isolated;
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::Canary;
use serde_json::{Value, json};

use crate::stage::{SOON, Stage};
use crate::watch::{Watch, holds};

const PORT: u16 = 7000;

impl Stage {
    /// Deletes the Node object of the second node; gives what is needed to make it again.
    fn delete_node(&self) -> Value {
        let node = self.lab.store().get(&NODES, "", "node2").unwrap();
        self.lab.store().delete(&NODES, "", "node2", &Deletion::default()).unwrap();
        json!({
            "metadata": {"name": "node2", "labels": node["metadata"]["labels"]},
            "spec": {"podCIDR": node["spec"]["podCIDR"], "podCIDRs": node["spec"]["podCIDRs"]},
            "status": {"addresses": node["status"]["addresses"]},
        })
    }

    /// Whether the first node sends its pods' packets for the second node's addresses into the tunnel.
    fn is_member(&self) -> bool {
        let netlink = self.node(0).space();
        let routes = self.lab.runtime().block_on(async {
            selvedge::kernel::netlink::Netlink::in_ns(netlink.net()).unwrap().routes().await.unwrap()
        });
        let has = |address: &IpAddr| {
            routes.iter().any(|route| route.table == POD_TABLE && route.destination.addr() == *address)
        };
        self.node(1).addresses().iter().all(has)
    }

    pub(crate) fn await_member(&self, wanted: bool) -> Duration {
        let start = Instant::now();
        let what = if wanted { "node2 to be a member" } else { "node2 to be none" };
        wait_for(what, SOON, || self.is_member() == wanted)
            .unwrap_or_else(|why| panic!("{why}\n{}", self.logs()));
        start.elapsed()
    }

    /// Frames of the first node in the clear, to the second's address and port of [`Flows`].
    fn watch_plain(&self, marker: &Canary) -> Watch {
        let marker = marker.bytes().to_vec();
        Watch::start(self.lab.underlay().router(), "node1", move |frame| holds(frame, &marker))
    }
}

/// One connection of each family, as connection tracking sees it, from the near pod to a program on the second node.
struct Flows {
    marker: Canary,
    ends: Vec<Ends>,
}

/// Both ends of a connection.
struct Ends {
    pod: UdpSocket,
    node: UdpSocket,
    /// Whom the node has heard.
    heard: Cell<Option<SocketAddr>>,
}

impl Ends {
    /// The node sends to whom it has heard, whether it hears anything more or not.
    fn answer(&self, marker: &Canary) {
        if let Some(heard) = self.heard.get() {
            let _ = self.node.send_to(&marker.fill(64), heard);
        }
    }
}

impl Flows {
    fn open(stage: &Stage) -> Self {
        let end = |ns: &selvedge::kernel::netns::NetNs, address: SocketAddr| {
            let socket = ns.run(|| UdpSocket::bind(address)).unwrap().unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let ends = stage.node(1).addresses().into_iter().map(|address| {
            let any: IpAddr = if address.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
            let pod = end(&stage.near.ns, SocketAddr::new(any, 0));
            let node = end(stage.node(1).space().net(), SocketAddr::new(address, PORT));
            pod.connect((address, PORT)).unwrap();
            Ends { pod, node, heard: Cell::default() }
        });
        Self { marker: Canary::random().unwrap(), ends: ends.collect() }
    }

    /// The pod sends, the node answers whoever it heard of first; gives how many datagrams the ends got.
    fn exchange(&self, rounds: usize) -> (usize, usize) {
        let (mut there, mut back) = (0, 0);
        let mut buffer = [0; 256];
        for _ in 0..rounds {
            for ends in &self.ends {
                let _ = ends.pod.send(&self.marker.fill(64));
                while let Ok((_, from)) = ends.node.recv_from(&mut buffer) {
                    there += 1;
                    ends.heard.set(Some(from));
                    ends.answer(&self.marker);
                }
                while ends.pod.recv(&mut buffer).is_ok() {
                    back += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        (there, back)
    }

    /// Waits until both families are answered in the clear.
    fn established(&self) {
        wait_for("answers of the internet that will be a node", SOON, || self.exchange(5).1 >= 6).unwrap();
    }
}

#[test]
fn nodes_leave_and_join() {
    isolated!(|| {
        let stage = Stage::start();
        let mut object = Value::Null;
        // An address that is no member's is the internet's: what goes there from now on may be seen.
        stage.send(false);
        stage.recovers("answers");
        stage.scenario("node leaving", || {
            object = stage.delete_node();
            let took = stage.await_member(false);
            assert!(took < Duration::from_secs(1), "the peer was gone after {took:?}");
            stage.keeps_sending(100);
            format!("no member any more after {took:?}")
        });
        let flows = Flows::open(&stage);
        flows.established();
        let plain = stage.watch_plain(&flows.marker);
        flows.exchange(5);
        wait_for("the watch to see frames in the clear", SOON, || !plain.times().is_empty()).unwrap();
        stage.node(1).hold();
        stage.scenario("node joining: object without addresses", || {
            let mut bare = object.clone();
            bare.as_object_mut().unwrap().remove("status");
            stage.lab.store().create(&NODES, bare).unwrap();
            stage.keeps_sending(60);
            String::new()
        });
        stage.scenario("node joining: addresses, no annotations, no tunnel", || {
            stage.lab.store().patch(&NODES, "", "node2", &json!({"status": object["status"]})).unwrap();
            let took = stage.await_member(true);
            // From here on its addresses are a member's.
            let (then, before) = (Instant::now(), plain.times().len());
            stage.send(true);
            let (there, back) = flows.exchange(60);
            assert_eq!(
                plain.since(then),
                0,
                "a connection from before goes on in the clear ({before} before)"
            );
            assert_eq!((there, back), (0, 0), "no tunnel runs there");
            stage.keeps_sending(60);
            format!("a member after {took:?}")
        });
        stage.scenario("node joining: tunnel and agent", || {
            stage.node(1).resume();
            let took = stage.recovers("answers of the node that joined");
            let then = Instant::now();
            wait_for("the connection from before, in the tunnel", SOON, || flows.exchange(5).0 >= 6).unwrap();
            assert_eq!(plain.since(then), 0, "a connection from before goes on in the clear");
            format!("answers after {took:?}")
        });
        stage.end();
    });
}

/// NAT rules are asked about the first packet of a connection alone.
#[test]
fn masqueraded_connections_end_where_a_node_joins() {
    isolated!(|| {
        let stage = Stage::start();
        stage.send(false);
        let object = stage.delete_node();
        stage.await_member(false);
        let flows = Flows::open(&stage);
        flows.established();
        let plain = stage.watch_plain(&flows.marker);
        stage.node(1).hold();
        let mut bare = object.clone();
        bare.as_object_mut().unwrap().remove("status");
        stage.lab.store().create(&NODES, bare).unwrap();
        stage.lab.store().patch(&NODES, "", "node2", &json!({"status": object["status"]})).unwrap();
        stage.await_member(true);
        stage.scenario("answers in the clear to a connection from before its node joined", || {
            let mut buffer = [0; 256];
            while flows.ends.iter().any(|ends| ends.pod.recv(&mut buffer).is_ok()) {}
            for _ in 0..20 {
                // As far as this program knows it speaks to the other node.
                flows.ends.iter().for_each(|ends| ends.answer(&flows.marker));
                stage.keeps_sending(1);
            }
            let heard = flows.ends.iter().filter(|ends| ends.pod.recv(&mut buffer).is_ok()).count();
            assert_eq!(heard, 0, "the pod hears a member node in the clear");
            String::new()
        });
        stage.scenario("connection from before its node joined, then routes and rules flushed", || {
            stage.node(0).agent.hold();
            let done = stage.reconfigure();
            let then = Instant::now();
            flows.exchange(40);
            assert_eq!(plain.since(then), 0, "goes on in the clear");
            done
        });
        stage.scenario("all back", || {
            stage.node(0).resume();
            stage.node(1).resume();
            stage.send(true);
            format!("answers after {:?}", stage.recovers("answers"))
        });
        stage.end();
    });
}
