//! An API server that is away, slow or forgetful, and an agent that is away.

use std::time::Duration;

use ipnet::IpNet;
use selvedge::kernel::address::Address;
use selvedge::kernel::nft::{self, Family};
use selvedge_lab::api::{Action, Failure, Fault, Mode, Request};
use selvedge_lab::isolated;
use selvedge_lab::plan::{Cable, Families, Plan};

use crate::cluster::{Claim, Cluster};

#[test]
fn traffic_flows_while_the_api_server_is_away_and_all_converges_on_its_return() {
    isolated!(|| {
        let cluster = Cluster::start();
        let ping = cluster.ping();

        cluster.lab.api().set_mode(Mode::Refusing);
        cluster.create(&Claim::good("late", 1));
        // The agent itself is replaced meanwhile.
        assert!(cluster.lab.nodes()[0].agent.kill());
        cluster.wait_for("the agent's successor", |cluster| {
            cluster.status(0).is_some_and(|status| status.problems.iter().any(|p| p.contains("API server")))
        });
        assert!(cluster.has_peer("node2"), "the tunnel keeps its peers");
        assert!(cluster.get("/readyz").starts_with("HTTP/1.1 503"));
        assert!(cluster.get("/healthz").starts_with("HTTP/1.1 200"));
        cluster.lab.api().set_mode(Mode::Serving);
        let back = cluster.wait_for("late to be believed", |cluster| cluster.has_peer("late"));
        println!("converged {back:?} after the API server's return");
        assert!(back < Duration::from_secs(5), "convergence took {back:?}");
        cluster.wait_for("node1 to be ready", |cluster| cluster.get("/readyz").starts_with("HTTP/1.1 200"));
        let report = ping.stop();
        cluster.assert_nothing_lost(&report);
    });
}

/// An hour: no certificate is believed then, in either direction.
#[test]
fn traffic_flows_while_clocks_are_apart_and_all_converges_when_they_agree() {
    isolated!(|| {
        let cluster = Cluster::start();
        let ping = cluster.ping();

        cluster.lab.api().set_mode(Mode::Ahead);
        cluster.wait_for("the agent to say why", |cluster| {
            cluster.status(0).is_some_and(|status| {
                status.ready && status.problems.iter().any(|p| p.contains("clock right?"))
            })
        });
        cluster.create(&Claim::good("late", 1));
        // A new one knows no more.
        assert!(cluster.lab.nodes()[0].agent.kill());
        cluster.wait_for("the agent's successor", |cluster| {
            cluster.status(0).is_some_and(|status| status.problems.iter().any(|p| p.contains("API server")))
        });
        assert!(cluster.has_peer("node2"), "the tunnel keeps its peers");
        assert!(!cluster.has_peer("late"));
        cluster.lab.api().set_mode(Mode::Serving);
        let back = cluster.wait_for("late to be believed", |cluster| cluster.has_peer("late"));
        println!("converged {back:?} after the clocks agreed");
        cluster.wait_for("nothing to complain about", |cluster| {
            cluster.status(0).is_some_and(|status| status.problems.is_empty())
        });
        cluster.assert_nothing_lost(&ping.stop());
    });
}

#[test]
fn an_api_server_that_fails_now_and_then_is_asked_again() {
    isolated!(|| {
        let cluster = Cluster::start();
        let api = cluster.lab.api();
        let throttled = api.inject(Fault::new(Action::Fail(Failure::too_many_requests(1))).times(3));
        api.cut_watches();
        api.expire_history();
        cluster.create(&Claim::good("late", 1));
        let late = cluster.wait_for("late to be believed", |cluster| cluster.has_peer("late"));
        drop(throttled);
        println!("believed after {late:?} of 429, cut watches and 410");

        // Too busy for watches: that is told, and what was seen last holds.
        let busy = Failure::new(503, "ServiceUnavailable", "come again");
        let busy = api.inject(Fault::new(Action::Fail(busy)).when(|request| request.verb == "watch"));
        api.cut_watches();
        let told = |cluster: &Cluster| {
            let problems = cluster.status(0).map(|status| status.problems).unwrap_or_default();
            problems
                .iter()
                .any(|problem| problem.starts_with("watches: ") && problem.contains("on all Nodes: "))
        };
        cluster.wait_for("the agent to tell of its watches", told);
        drop(busy);
        cluster.wait_for("the watches to be served", |cluster| !told(cluster));

        let slow = api.inject(Fault::new(Action::Delay(Duration::from_millis(300))));
        cluster.create(&Claim::good("later", 2));
        cluster.wait_for("later to be believed", |cluster| cluster.has_peer("later"));
        drop(slow);
    });
}

/// A watch that brings the list with it (`sendInitialEvents`) costs an API server less than a list does.
#[test]
fn lists_are_streamed_unless_the_api_server_does_not() {
    isolated!(|| {
        let cluster = Cluster::start();
        let api = cluster.lab.api();
        let streamed = |request: &Request| request.query.contains("sendInitialEvents=true");
        let lists = |from: usize| {
            let asked: Vec<Request> =
                api.requests().into_iter().skip(from).map(|record| record.request).collect();
            let of_agents = asked.iter().filter(|request| request.user.contains("agent"));
            of_agents.filter(|request| request.verb == "list").count()
        };
        let all = api.requests();
        let watches: Vec<_> =
            all.iter().map(|record| &record.request).filter(|request| streamed(request)).collect();
        assert!(watches.len() >= 4, "two of each agent: {all:#?}");
        assert!(watches.iter().all(|request| !request.query.contains("resourceVersion=")), "{watches:#?}");
        assert_eq!(lists(0), 0, "{all:#?}");
        let introduced = |request: &&Request| request.agent.starts_with("selvedge-agent/");
        assert!(watches.iter().all(introduced), "{watches:#?}");

        // One that knows nothing of it.
        let invalid = Failure::new(422, "Invalid", "sendInitialEvents is forbidden for watch");
        let refused = api.inject(Fault::new(Action::Fail(invalid)).when(streamed));
        let from = api.requests().len();
        assert!(cluster.lab.nodes()[0].agent.kill());
        cluster.create(&Claim::good("late", 1));
        cluster.wait_for("late to be believed", |cluster| cluster.has_peer("late"));
        assert!(lists(from) >= 2, "{:#?}", &api.requests()[from..]);
        drop(refused);
    });
}

/// Service addresses on `kube-ipvs0`, container networks, virtual addresses: connections from others stay.
#[test]
fn only_an_address_that_connections_are_from_makes_the_agent_connect_again() {
    isolated!(|| {
        let cluster = Cluster::start();
        let node = &cluster.lab.nodes()[0];
        let watches = || {
            let requests = cluster.lab.api().requests();
            let of_node = requests.iter().filter(|record| record.request.user == "agent:node1");
            of_node.filter(|record| record.request.verb == "watch").count()
        };
        // The agent takes changes of the kernel in order: what came before its table was taken away has been seen.
        let barrier = || {
            let table = selvedge::egress::TABLE;
            assert!(node.space().run(|| nft::delete(Family::Inet, table).unwrap()).unwrap());
            cluster.wait_for("the agent to have seen all changes", |_| {
                node.space().run(|| nft::read(Family::Inet, table).unwrap().is_some()).unwrap()
            });
        };
        cluster.wait_for("watches", |_| watches() >= 2);
        let before = watches();
        let (loopback, foreign) = (1, ["198.51.100.9/32", "2001:db8:9::9/128"]);
        for address in foreign.map(|text| Address::new(loopback, text.parse::<IpNet>().unwrap())) {
            for change in [address.add(), address.delete()] {
                let apply = async { node.netlink().unwrap().apply([change]).await.unwrap() };
                cluster.lab.runtime().block_on(apply);
                barrier();
            }
        }
        assert_eq!(watches(), before, "{}", selvedge_lab::lab::logs(node));

        // The control: the address that the watches are from.
        let other = Plan::new(Families::Dual, 9).node_plans().remove(8).cable;
        cluster.lab.renumber(0, &Cable { name: node.cable().name, ..other }).unwrap();
        cluster.wait_for("new watches", |_| watches() >= before + 2);
    });
}
