//! Others take away, or change, what the fabric has in the kernel of a node: while its agent runs, and while it is down.

use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use selvedge::fabric::POD_TABLE;
use selvedge::guard::GuardConfig;
use selvedge::kernel::link::{self, Id, Update};
use selvedge::kernel::nft::{self, Family};
use selvedge::kernel::{ROUTE_PROTOCOL, sysctl};
use selvedge::{egress, guard};
use selvedge_lab::node::{Node, TUNNEL_DEVICE};
use selvedge_lab::{isolated, scenario};

use crate::stage::Stage;

const LINKDOWN: [&str; 2] =
    ["ipv4/conf/all/ignore_routes_with_linkdown", "ipv6/conf/all/ignore_routes_with_linkdown"];

/// Strikes while the agent runs, then while it is down; each time all comes back once it can.
fn attack(stage: &Stage, name: &str, strike: &dyn Fn() -> String) {
    let agent = &stage.node(0).agent;
    stage.scenario(&format!("{name}, agent running"), || {
        let struck = strike();
        format!("{struck}answers after {:?}", stage.recovers(name))
    });
    stage.scenario(&format!("{name}, agent down"), || {
        agent.hold();
        strike()
    });
    stage.scenario(&format!("{name}, agent back"), || {
        agent.resume();
        format!("answers after {:?}", stage.recovers(name))
    });
}

impl Stage {
    fn delete_routes(&self, wanted: impl Fn(&RouteMessage) -> bool) -> String {
        let space = self.node(0).space();
        let deleted = self.lab.runtime().block_on(scenario::delete_routes(space.net(), wanted)).unwrap();
        assert!(deleted > 0, "there were no such routes");
        format!("{deleted} routes deleted; ")
    }

    fn change_tunnel_device(&self, update: &Update<'_>) -> String {
        self.change(link::update(Id::Name(TUNNEL_DEVICE), update))
    }

    fn change(&self, change: selvedge::kernel::netlink::Change) -> String {
        let apply = async { self.node(0).netlink().unwrap().apply([change]).await.unwrap() };
        self.lab.runtime().block_on(apply);
        String::new()
    }

    fn delete_table(&self, family: Family, name: &str) -> String {
        assert!(self.node(0).space().run(|| nft::delete(family, name)).unwrap().unwrap(), "no table {name}");
        String::new()
    }

    fn delete_rules(&self) -> String {
        let space = self.node(0).space();
        let deleted = self.lab.runtime().block_on(scenario::flush_rules(space.net())).unwrap();
        format!("{deleted} rules deleted; ")
    }
}

fn ours(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

fn length(route: &RouteMessage) -> u8 {
    let any = route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Destination(_)));
    if any { route.header.destination_prefix_length } else { 0 }
}

#[test]
fn routes_are_taken_away() {
    isolated!(|| {
        let stage = Stage::start();
        // The cluster's prefixes are /16 and /56; pods' routes are longer.
        let cluster = |route: &RouteMessage| ours(route) && matches!(length(route), 16 | 56);
        attack(&stage, "routes into the tunnel deleted", &|| {
            stage.delete_routes(|route| cluster(route) && route.header.kind == RouteType::Unicast)
        });
        attack(&stage, "all routes to the cluster deleted", &|| stage.delete_routes(cluster));
        attack(&stage, "routes to node addresses deleted", &|| {
            stage.delete_routes(|route| scenario::table(route) == POD_TABLE)
        });
        attack(&stage, "rules deleted", &|| stage.delete_rules());
        attack(&stage, "all routes flushed as a network manager does", &|| stage.reconfigure());
        stage.end();
    });
}

#[test]
fn the_device_is_taken_away() {
    isolated!(|| {
        let stage = Stage::start();
        let node: &Node = stage.node(0);
        attack(&stage, "selvedge0 down", &|| {
            stage.change_tunnel_device(&Update { up: Some(false), ..Update::default() })
        });
        attack(&stage, "selvedge0 in another link group", &|| {
            stage.change_tunnel_device(&Update { group: Some(0), ..Update::default() })
        });
        attack(&stage, "selvedge0 deleted", &|| stage.change(link::delete(Id::Name(TUNNEL_DEVICE))));
        stage.scenario("ignore_routes_with_linkdown=1", || {
            node.space()
                .run(|| LINKDOWN.iter().try_for_each(|key| sysctl::write(key, "1")))
                .unwrap()
                .unwrap();
            format!("answers after {:?}", stage.recovers("answers with the setting"))
        });
        stage.scenario("ignore_routes_with_linkdown=1, tunnel down", || {
            node.tunnel.hold();
            String::new()
        });
        stage.scenario("ignore_routes_with_linkdown=1, tunnel and agent down", || {
            node.agent.hold();
            stage.change_tunnel_device(&Update { up: Some(false), ..Update::default() });
            stage.keeps_sending(40);
            stage.change(link::delete(Id::Name(TUNNEL_DEVICE)))
        });
        stage.scenario("all back", || {
            node.resume();
            format!("answers after {:?}", stage.recovers("answers"))
        });
        stage.end();
    });
}

fn guard_is_back(stage: &Stage) {
    let plan = stage.lab.plan();
    let config = GuardConfig {
        cluster_pod_cidrs: plan.cluster_pod_cidrs(),
        service_cidrs: plan.service_cidrs(),
        trusted_sources: Vec::new(),
    };
    let right = || stage.node(0).space().run(|| guard::is_right(&config)).unwrap().unwrap();
    assert!(right(), "the guard is not as before");
}

#[test]
fn tables_are_taken_away() {
    isolated!(|| {
        let stage = Stage::start();
        attack(&stage, "table of egress deleted", &|| stage.delete_table(Family::Inet, egress::TABLE));
        // What is left of the rules against spoofing does not matter to what leaves the node.
        attack(&stage, "table of the ports deleted", &|| {
            stage.delete_table(Family::Netdev, selvedge::pod::spoof::TABLE)
        });
        // What is between two hooks when the guard goes is counted elsewhere (`what_leaks_when_tables_are_flushed`): here all
        // is silent at that moment. What pods send from then on does not leave, with the agent or without it.
        attack(&stage, "table of the guard deleted", &|| {
            stage.hush();
            let deleted = stage.delete_table(Family::Inet, guard::TABLE);
            stage.send_of_pods();
            deleted
        });
        attack(&stage, "tables of the guard and of egress deleted", &|| {
            stage.hush();
            stage.delete_table(Family::Inet, egress::TABLE);
            let deleted = stage.delete_table(Family::Inet, guard::TABLE);
            stage.send_of_pods();
            deleted
        });
        guard_is_back(&stage);
        stage.end();
    });
}
