//! Ranges of cluster IPs that ServiceCIDR objects add while the agents run.

use selvedge::agent::status::AgentStatus;
use selvedge::local::Client;
use selvedge::{egress, guard};
use selvedge_lab::api::Deletion;
use selvedge_lab::api::resource::SERVICE_CIDRS;

use super::*;

const RANGES: [&str; 2] = ["10.97.0.0/24", "fd00:10:97::/112"];

/// In the ranges of the object; no Service has the last one.
fn address(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => [10, 97, 0, number].into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x97, 0, 0, 0, 0, number.into()).into(),
    }
}

fn service_cidr(name: &str, cidrs: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}})
}

fn rules(family: Family) -> String {
    let digit = if family == Family::V4 { "-4" } else { "-6" };
    let output = Command::new("ip").args([digit, "rule"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Cluster {
    fn status(&self) -> Option<AgentStatus> {
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(Client::new("/run/selvedge/agent.sock".as_ref()).get("/v1/status")).ok()
        };
        self.lab.nodes()[0].space().run(ask).unwrap()
    }

    /// Packets of this family that the first node's guard has dropped on their way out, and that its egress has masqueraded.
    fn counted(&self, family: Family) -> (u64, u64) {
        let digit = if family == Family::V4 { 4 } else { 6 };
        let (dropped, masqueraded) =
            self.hosts[0].run(|| (guard::dropped().unwrap(), egress::connections().unwrap())).unwrap();
        let packets = |name: &str| name.to_owned() + &digit.to_string();
        (dropped[&packets("leaving")].packets, masqueraded[&packets("masqueraded")].packets)
    }

    /// How many more packets were dropped and masqueraded after one was sent to an address in the ranges that no Service has.
    fn sent(&self, ns: &NetNs, family: Family) -> (u64, u64) {
        // On its way to the internet, it may be read.
        let (plain, before) = (Canary::random().unwrap(), self.counted(family));
        let to = SocketAddr::new(address(family, 200), PORT);
        let silent = traffic::ask_udp(ns, to, &plain, Duration::from_millis(300));
        assert!(silent.is_err(), "{to}: {silent:?}");
        let after = self.counted(family);
        (after.0 - before.0, after.1 - before.1)
    }

    #[track_caller]
    fn assert_guarded(&self) {
        for family in FAMILIES {
            for ns in [&*self.near.0, &self.hosts[0]] {
                let (dropped, masqueraded) = self.sent(ns, family);
                assert!(dropped > 0 && masqueraded == 0, "{family:?}: {dropped} {masqueraded}");
            }
        }
    }

    /// The ranges that the plugin goes by.
    fn node_file(&self) -> Vec<String> {
        let text = std::fs::read(self.lab.nodes()[0].disk().join("state/node.json")).unwrap();
        let node: Value = serde_json::from_slice(&text).unwrap();
        serde_json::from_value(node["serviceCidrs"].clone()).unwrap()
    }

    fn restart_agent(&self) {
        let node = &self.lab.nodes()[0];
        let before = self.status().unwrap();
        node.agent.hold();
        node.agent.resume();
        let back = || self.status().is_some_and(|status| status.ready && status.problems == before.problems);
        wait_for("the agent's successor", SOON, back).unwrap();
    }
}

#[test]
fn ranges_of_service_cidrs_are_protected() {
    isolated!(|| {
        let cluster = Cluster::start(Datapath::Bridge);
        let Cluster { lab, near, beside, far, hosts } = &cluster;
        wait_for("node1 to be ready", SOON, || cluster.status().is_some_and(|it| it.ready)).unwrap();
        for family in FAMILIES {
            assert_eq!(cluster.sent(&near.0, family).0, 0, "nothing protects it yet");
            assert!(cluster.sent(&near.0, family).1 > 0, "it is the internet's");
        }

        lab.store().create(&SERVICE_CIDRS, service_cidr("more", &RANGES)).unwrap();
        let has_ranges = || RANGES.iter().all(|range| cluster.node_file().iter().any(|it| it == range));
        wait_for("the plugin to know the ranges", SOON, has_ranges).unwrap();
        let drops = || FAMILIES.iter().all(|family| cluster.sent(&near.0, *family).0 > 0);
        wait_for("the guard to know the ranges", SOON, drops).unwrap();
        cluster.assert_guarded();
        let addresses = FAMILIES.map(|family| address(family, 1));
        let spec = json!({"clusterIP": addresses[0], "clusterIPs": addresses});
        cluster.service(1, &spec, &[(beside, "node1"), (far, "node2")]);
        for family in FAMILIES {
            let to = SocketAddr::new(address(family, 1), PORT);
            let source = family.pick(&near.1).unwrap();
            cluster.assert_answers(&near.0, to, lab.canary(), &[("beside", source), ("far", source)]);
            cluster.assert_refused(&near.0, SocketAddr::new(to.ip(), PORT + 1));
            let (own, _) = cluster.own(family);
            cluster.assert_answers(&hosts[0], to, lab.canary(), &[("beside", own), ("far", own)]);
            let range = RANGES[usize::from(family == Family::V6)];
            let rules = hosts[0].run(|| rules(family)).unwrap();
            assert!(rules.contains(&format!("to {range} iif lo lookup 51831")), "{rules}");
        }

        // What would cut the nodes off is refused, and the others serve on.
        let own = cluster.own(Family::V4).0;
        let greedy = ["0.0.0.0/0".to_owned(), format!("{own}/32")];
        let greedy: Vec<&str> = greedy.iter().map(String::as_str).collect();
        lab.store().create(&SERVICE_CIDRS, service_cidr("greedy", &greedy)).unwrap();
        let is_told = |status: &AgentStatus| {
            greedy.iter().all(|range| {
                let told = format!("{range} of ServiceCIDR greedy");
                status.problems.iter().any(|problem| problem.contains(&told))
            })
        };
        wait_for("the refusal", SOON, || cluster.status().is_some_and(|it| it.ready && is_told(&it)))
            .unwrap();
        let to = SocketAddr::new(address(Family::V4, 1), PORT);
        let source = Family::V4.pick(&near.1).unwrap();
        cluster.assert_answers(&near.0, to, lab.canary(), &[("beside", source), ("far", source)]);

        for name in ["more", "greedy"] {
            lab.store().delete(&SERVICE_CIDRS, "", name, &Deletion::default()).unwrap();
        }
        lab.store().delete(&SERVICES, "default", "service1", &Deletion::default()).unwrap();
        wait_for("no problem", SOON, || cluster.status().is_some_and(|it| it.problems.is_empty())).unwrap();
        cluster.assert_guarded();
        cluster.restart_agent();
        cluster.assert_guarded();
        // Nobody but the plugin is there to put the guard back.
        let node = &lab.nodes()[0];
        node.agent.hold();
        assert!(hosts[0].run(|| guard::remove().unwrap()).unwrap());
        lab.create_pod("late", "node1", &[]).unwrap();
        cluster.assert_guarded();
        cluster.nothing_leaked();
        // The second agent since the object has gone forgets the ranges.
        node.agent.resume();
        let is_internet = || {
            !has_ranges()
                && FAMILIES.iter().all(|family| {
                    let (dropped, masqueraded) = cluster.sent(&near.0, *family);
                    dropped == 0 && masqueraded > 0
                })
        };
        wait_for("the ranges to be the internet's again", SOON, is_internet).unwrap();
    });
}
