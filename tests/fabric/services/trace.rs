//! `selvedge services`: what it says is what packets do.

use std::process::{Command, Stdio};

use selvedge::service::show::ServiceList;
use selvedge::service::trace::{Trace, TraceVerdict};
use selvedge_lab::node::{Node, environment};

use super::*;

/// Exit code and standard output.
fn run(node: &Node, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.arg("services").args(args).envs(environment()).stdin(Stdio::null());
    let output = node.space().place(&mut command).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn list(node: &Node, names: &[&str]) -> (Option<i32>, ServiceList) {
    let (code, text) = run(node, &[names, &["--output", "json"]].concat());
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

impl Cluster {
    /// What the first node says of TCP, once it says this.
    #[track_caller]
    fn trace(&self, source: IpAddr, to: SocketAddr, verdict: TraceVerdict) -> Trace {
        let args = ["trace", &source.to_string(), &format!("{to}/tcp")];
        let mut said = (None, String::new());
        let waited = wait_for("the trace", SOON, || {
            said = run(&self.lab.nodes()[0], &[&args[..], &["--output", "json"]].concat());
            serde_json::from_str(&said.1)
                .is_ok_and(|trace: Trace| trace.problem.is_none() && trace.verdict == verdict)
        });
        waited.unwrap_or_else(|error| panic!("{args:?}: {error}: {said:?}"));
        assert_eq!(said.0, Some(if verdict == TraceVerdict::Served { 0 } else { 3 }), "{said:?}");
        println!("{}", run(&self.lab.nodes()[0], &args).1);
        serde_json::from_str(&said.1).unwrap()
    }

    /// Connections go to the endpoints that the trace names, with the sources that it names, and to no others.
    #[track_caller]
    fn assert_served(&self, ns: &NetNs, source: IpAddr, to: SocketAddr, canary: &Canary) -> Trace {
        let trace = self.trace(source, to, TraceVerdict::Served);
        let pods = [("near", &self.near), ("beside", &self.beside), ("far", &self.far)];
        let expected = trace.endpoints.iter().map(|endpoint| {
            let (name, _) = pods.iter().find(|(_, pod)| pod.1.contains(&endpoint.address.ip())).unwrap();
            (*name, endpoint.source.unwrap())
        });
        self.assert_answers(ns, to, canary, &expected.collect::<Vec<_>>());
        trace
    }

    #[track_caller]
    fn assert_silent(&self, ns: &NetNs, to: SocketAddr, canary: &Canary) {
        let silent = traffic::ask_udp(ns, to, canary, Duration::from_millis(300));
        assert!(silent.is_err(), "{to}: {silent:?}");
    }
}

#[test]
fn a_trace_says_what_a_connection_does() {
    isolated!(|| {
        let cluster = Cluster::start(Datapath::Bridge);
        let Cluster { lab, near, beside, far, hosts } = &cluster;
        let (secret, plain) = (lab.canary(), Canary::random().unwrap());
        let local = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
        cluster.service(1, &json!({}), &[(beside, "node1"), (far, "node2")]);
        cluster.service(2, &local, &[(beside, "node1"), (far, "node2")]);
        cluster.service(3, &local, &[(far, "node2")]);
        cluster.service(5, &json!({}), &[(near, "node1")]);
        for family in FAMILIES {
            let at = |number| SocketAddr::new(Cluster::service_address(number, family), PORT);
            let (own, fabric) = cluster.own(family);
            let node_port = |number: u8| SocketAddr::new(own, NODE_PORT + u16::from(number));
            let pod = |pod: &Pod| family.pick(&pod.1).unwrap();
            let trace = cluster.assert_served(&near.0, pod(near), at(1), secret);
            assert_eq!(trace.endpoints.len(), 2);
            assert_eq!(trace.endpoints[0].percent, 50.0);
            cluster.assert_served(&near.0, pod(near), node_port(3), secret);
            cluster.assert_served(&hosts[0], own, at(1), secret);
            cluster.assert_served(&far.0, pod(far), node_port(1), secret);
            // What is local, and who asks.
            let trace = cluster.assert_served(&near.0, pod(near), at(2), secret);
            assert_eq!((trace.endpoints.len(), trace.endpoints[0].local), (1, true));
            let client = traffic::ask(lab.internet(), node_port(2), &plain).unwrap().told.source.ip();
            cluster.assert_served(lab.internet(), client, node_port(2), &plain);
            cluster.assert_served(lab.internet(), client, node_port(1), &plain);
            // The pod is its own endpoint.
            let trace = cluster.assert_served(&near.0, pod(near), at(5), secret);
            assert_eq!((trace.endpoints[0].hairpin, trace.endpoints[0].source), (true, Some(fabric)));

            let other_port = SocketAddr::new(at(1).ip(), PORT + 1);
            let trace = cluster.trace(pod(near), other_port, TraceVerdict::Rejected);
            assert_eq!(trace.service.as_deref(), Some("default/service1"));
            cluster.assert_refused(&near.0, other_port);
            for (source, ns, to, canary) in
                [(pod(near), &*near.0, at(3), secret), (client, lab.internet(), node_port(3), &plain)]
            {
                let trace = cluster.trace(source, to, TraceVerdict::Dropped);
                assert!(trace.reason.contains("TrafficPolicy is Local"), "{trace:?}");
                cluster.assert_silent(ns, to, canary);
            }
            let nobody = SocketAddr::new(nobodys(family), PORT);
            cluster.trace(pod(near), nobody, TraceVerdict::Dropped);
            cluster.assert_silent(&near.0, nobody, secret);
        }
        the_list_has_all_of_it(&cluster);
    });
}

/// A Service address that no Service has.
fn nobodys(family: Family) -> IpAddr {
    match family {
        Family::V4 => "10.96.7.99".parse().unwrap(),
        Family::V6 => "fd00:10:96::99".parse().unwrap(),
    }
}

fn the_list_has_all_of_it(cluster: &Cluster) {
    let node = &cluster.lab.nodes()[0];
    println!("{}", run(node, &[]).1);
    let (code, all) = list(node, &[]);
    assert_eq!((code, all.services.len(), all.problem.as_deref()), (Some(0), 4, None), "{all:?}");
    // Two protocols and two families.
    assert!(all.services.iter().all(|service| service.ports.len() == 4), "{all:?}");
    let counters = all.counters.unwrap();
    for counter in ["rejected", "dropped", "masqueraded", "hairpins"] {
        assert!(counters[counter] > 0, "{counter}: {counters:?}");
    }
    let (code, one) = list(node, &["default/service3", "default/gone"]);
    assert_eq!((code, one.services.len(), one.absent), (Some(3), 1, vec!["default/gone".into()]));

    let claimed = json!({"externalIPs": ["198.51.100.77"]});
    cluster.service(6, &claimed, &[]);
    cluster.service(7, &claimed, &[]);
    let conflicts = || list(node, &[]).1.conflicts.len();
    // Of TCP and UDP.
    wait_for("the conflicts", SOON, || conflicts() == 2).unwrap();
    println!("{}", run(node, &["default/service7"]).1);
    let (code, one) = list(node, &["default/service7"]);
    assert_eq!((code, one.conflicts[0].owner.as_str()), (Some(3), "default/service6"));

    // Where another proxy serves Services, and where no agent answers.
    let other = &cluster.lab.nodes()[2];
    assert_eq!(run(node, &["trace", "10.0.0.1", "nonsense"]).0, Some(2));
    other.agent.hold();
    assert_eq!(run(other, &[]).0, Some(4));
    assert_eq!(run(other, &["trace", "10.0.0.1", "10.96.7.1:80"]).0, Some(4));
    let file = cluster.lab.options().folder.join("nodes/node3/etc/config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("services = \"on\"\n", "")).unwrap();
    other.agent.resume();
    wait_for("the agent", SOON, || run(other, &[]).0 != Some(4)).unwrap();
    let (code, list) = list(other, &[]);
    assert_eq!((code, list.enabled), (Some(3), false));
    assert_eq!(run(other, &["trace", "10.0.0.1", "10.96.7.1:80"]).0, Some(3));
}
