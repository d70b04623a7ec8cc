//! Several API servers, one of which goes away.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use selvedge::kernel::nft::{self, Chain, ChainKind, End, Family, Hook, Ip, Rule, Table};
use selvedge_lab::api::resource::{ENDPOINT_SLICES, SERVICES};
use selvedge_lab::isolated;
use selvedge_lab::plan::API_PORT;
use selvedge_lab::process::wait_for;
use serde_json::json;

use crate::cluster::{Claim, Cluster};

/// Two tries of three seconds after ten, and what a busy machine adds.
const FAILOVER: Duration = Duration::from_secs(60);

/// The Service that names the API servers: here one, by its two addresses.
fn name_servers(cluster: &Cluster, addresses: &[IpAddr]) {
    let store = cluster.lab.store();
    let ports = json!([{"name": "https", "protocol": "TCP", "port": 443}]);
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": ports},
    });
    store.create(&SERVICES, service).unwrap();
    for address in addresses {
        let (kind, name) =
            if address.is_ipv4() { ("IPv4", "kubernetes-4") } else { ("IPv6", "kubernetes-6") };
        let slice = json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": kind, "endpoints": [{"addresses": [address]}],
            "ports": [{"name": "https", "protocol": "TCP", "port": API_PORT}],
        });
        store.create(&ENDPOINT_SLICES, slice).unwrap();
    }
}

/// Nothing that node1 sends to the API server at this address arrives.
fn cut(cluster: &Cluster, address: IpAddr) {
    let rule = Rule::new().ip(Ip::of(address)).address(End::Destination, address).drop();
    let mut table = Table::new(Family::Inet, "cut");
    table.chain("out", Chain::base(ChainKind::Filter, Hook::Output, 0, vec![rule]));
    cluster.lab.nodes()[0].space().run(|| nft::apply(&[table]).map(drop).unwrap()).unwrap();
}

#[test]
fn an_agent_turns_to_another_api_server_and_knows_it_after_a_restart() {
    isolated!(|| {
        let cluster = Cluster::start();
        let node = &cluster.lab.nodes()[0];
        node.agent.hold();
        let file = node.disk().join("etc/config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("services = \"on\"\n{text}")).unwrap();
        node.agent.resume();
        let addresses = cluster.lab.plan().control().addresses();
        name_servers(&cluster, &addresses);
        let known = || {
            let known = std::fs::read(node.disk().join("state/api-servers.json")).unwrap_or_default();
            serde_json::from_slice::<Vec<SocketAddr>>(&known).unwrap_or_default()
        };
        wait_for("both servers to be on disk", FAILOVER, || known().len() == addresses.len()).unwrap();
        let ping = cluster.ping();

        cut(&cluster, addresses[0]);
        cluster.create(&Claim::good("late", 1));
        wait_for("late to be believed", FAILOVER, || cluster.has_peer("late")).unwrap();
        let is_well = || cluster.status(0).is_some_and(|status| status.ready && status.problems.is_empty());
        wait_for("no problem", FAILOVER, is_well).unwrap();

        assert!(node.agent.kill());
        cluster.create(&Claim::good("later", 2));
        wait_for("later to be believed", FAILOVER, || cluster.has_peer("later")).unwrap();
        wait_for("no problem", FAILOVER, is_well).unwrap();
        let report = ping.stop();
        cluster.assert_nothing_lost(&report);
    });
}
