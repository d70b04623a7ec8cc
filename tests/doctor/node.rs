//! A node by itself.

use ipnet::IpNet;
use selvedge::kernel::address::Address;
use selvedge::kernel::link::{Bridge, End, Id, Update, Veth, update};
use selvedge::kernel::mac::Mac;
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::nft::{
    self, Base, Chain, ChainKind, Expression, Family, Hook, Ip, PayloadBase, Policy, Reject, Rule, Table,
    TableState,
};
use selvedge::kernel::route::Route;
use selvedge_lab::isolated;

use crate::host::{Host, expect};

const CONFIG: &str = "nodeName = \"n1\"\nclusterPodCIDRs = [\"10.244.0.0/16\", \"fd00:1::/56\"]\n\
                      serviceCIDRs = [\"10.96.0.0/12\"]\n";

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A wire `eth0` with an address and a default route, of this MTU.
async fn wire(netlink: &Netlink, mtu: u32) {
    let end = |name| End { name, mac: None, mtu, group: 0 };
    netlink.apply([Veth { end: end("eth0"), peer: end("far"), peer_ns: None }.create()]).await.unwrap();
    let up = || Update { up: Some(true), ..Update::default() };
    netlink.apply(["eth0", "far"].map(|name| update(Id::Name(name), &up()))).await.unwrap();
    let device = netlink.link_named("eth0").await.unwrap().unwrap().index;
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let default = Route::via(net("0.0.0.0/0"), "192.0.2.1".parse().unwrap(), device);
    netlink.apply([Address::new(device, net("192.0.2.10/24")).add(), default.replace()]).await.unwrap();
}

async fn device(netlink: &Netlink, name: &str, address: Option<&str>) {
    let bridge = Bridge { name, mac: Mac([2, 0, 0, 0, 0, 9]), mtu: 1500, group: 0 };
    let index = netlink.ensure_bridge(&bridge).await.unwrap().index;
    let address = address.map(|text| Address::new(index, text.parse::<IpNet>().unwrap()).add());
    netlink.apply(address).await.unwrap();
}

/// Every table there is, as it is.
fn tables() -> Vec<TableState> {
    let mut all = Vec::new();
    for family in Family::ALL {
        all.extend(nft::tables(family).unwrap().iter().filter_map(|name| nft::read(family, name).unwrap()));
    }
    all
}

#[test]
fn a_plain_node_has_no_problem_and_stays_as_it_is() {
    isolated!(|| {
        let host = Host::new();
        run(async {
            let netlink = Netlink::new().unwrap();
            wire(&netlink, 1500).await;
            let before = (host.tree(), tables(), netlink.links().await.unwrap());
            let (report, exit) = host.doctor(&["--offline"]);
            assert_eq!(exit, 0, "{report:#}");
            assert_eq!(report["installed"], false);
            for check in
                ["kernel", "rights", "tun", "nftables", "conntrack", "bridge", "port", "cni", "firewall"]
            {
                assert_eq!(crate::host::found(&report, check)[0].0, "ok", "{check}: {report:#}");
            }
            expect(&report, "config", &[("skipped", "there is no")]);
            expect(&report, "mtu", &[("ok", "eth0 has 1500: pods get 1420")]);
            expect(&report, "keys", &[("ok", "no keys yet")]);
            expect(&report, "agent", &[("skipped", "not installed")]);
            expect(&report, "kube-proxy", &[("warning", "neither kube-proxy nor Selvedge")]);
            assert_eq!(before, (host.tree(), tables(), netlink.links().await.unwrap()));
        });
    });
}

#[test]
fn what_stands_in_the_way_is_found() {
    isolated!(|| {
        let host = Host::new();
        host.write("/etc/selvedge/config.toml", CONFIG);
        host.write("/etc/cni/net.d/10-selvedge.conflist", "{}");
        host.write("/etc/cni/net.d/05-cilium.conflist", r#"{"plugins": [{"type": "cilium-cni"}]}"#);
        host.write("/run/systemd/netif/state", "");
        let line = "0: 00000000:CA76 00000000:0000 07 0:0 00:0 0 0 0 99 2 0 0\n";
        host.write("/proc/net/udp", &format!("  sl\n  {line}"));
        run(async {
            let netlink = Netlink::new().unwrap();
            wire(&netlink, 1300).await;
            device(&netlink, "cilium_host", None).await;
            device(&netlink, "kube-ipvs0", Some("10.96.0.1/32")).await;
            device(&netlink, "eth1", Some("10.244.9.1/24")).await;
            let mut filter = Table::new(Family::Ipv4, "filter");
            let (kind, hook, policy) = (ChainKind::Filter, Hook::Forward, Policy::Drop);
            let base = Some(Base { kind, hook, priority: 0, policy, device: None });
            filter.chain("FORWARD", Chain { base, rules: vec![Rule::new().jump("DOCKER-USER")] });
            filter.chain("DOCKER-USER", Chain::regular(vec![]));
            nft::apply(&[filter, Table::new(Family::Inet, "firewalld")]).unwrap();
            let (report, exit) = host.doctor(&["--offline"]);
            assert_eq!(exit, 3, "{report:#}");
            assert_eq!(report["installed"], true);
            expect(&report, "port", &[("problem", "UDP 51830 is taken")]);
            expect(&report, "config", &[("ok", "valid for node n1")]);
            expect(&report, "mtu", &[("problem", "eth0 has 1300: pods get 1220, and IPv6 needs 1280")]);
            let devices = ("warning", "cilium_host of Cilium");
            expect(&report, "cni", &[("problem", "05-cilium.conflist (cilium-cni)"), devices]);
            expect(&report, "ranges", &[("problem", "the node's address 10.244.9.1 (eth1)")]);
            expect(&report, "kube-proxy", &[("ok", "mode ipvs")]);
            let forward = ("problem", "chain FORWARD of table ip filter drops what is forwarded");
            expect(&report, "firewall", &[forward, ("warning", "firewalld is running")]);
            expect(&report, "networkd", &[("warning", "ManageForeignRoutes")]);
            expect(&report, "sysctl", &[("problem", "ip_forward is 0")]);
            expect(&report, "agent", &[("problem", "the agent does not answer")]);
            expect(&report, "guard", &[("problem", "missing")]);
        });
    });
}

#[test]
fn kube_proxy_is_known_by_its_table_or_its_chains() {
    isolated!(|| {
        let host = Host::new();
        let mut nat = Table::new(Family::Ipv4, "nat");
        nat.chain("KUBE-SERVICES", Chain::regular(vec![]));
        nft::apply(&[nat]).unwrap();
        expect(&host.doctor(&["--offline"]).0, "kube-proxy", &[("ok", "mode iptables")]);
        nft::delete(Family::Ipv4, "nat").unwrap();
        nft::apply(&[Table::new(Family::Ipv4, "kube-proxy")]).unwrap();
        let report = host.doctor(&["--offline"]).0;
        expect(&report, "kube-proxy", &[("ok", "mode nftables")]);
        expect(&report, "mtu", &[("skipped", "no default route")]);
    });
}

#[test]
fn a_wrong_configuration_and_an_open_key_store_are_problems_and_no_key_is_shown() {
    use std::os::unix::fs::PermissionsExt as _;

    isolated!(|| {
        let host = Host::new();
        host.write(
            "/etc/selvedge/config.toml",
            "clusterPodCIDRs = [\"10.0.0.0/8\"]\nserviceCIDRs = [\"10.96.0.0/12\"]\n",
        );
        let keys = host.path("/var/lib/selvedge/keys");
        selvedge_keys::KeyStore::open(&keys).unwrap().ensure(jiff::Timestamp::now()).unwrap();
        let file = std::fs::read_to_string(keys.join("epoch-1")).unwrap();
        let secret = file.lines().find_map(|line| line.strip_prefix("private ")).unwrap();
        let (report, _) = host.doctor(&["--offline"]);
        expect(&report, "keys", &[("ok", "epoch 1 is in use, of 1")]);
        expect(&report, "config", &[("problem", "overlaps clusterPodCIDRs")]);
        std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o750)).unwrap();
        let (report, exit) = host.doctor(&["--offline"]);
        expect(&report, "keys", &[("problem", "chmod 0700")]);
        assert!(exit == 3 && !report.to_string().contains(secret));
    });
}

#[test]
fn a_rule_for_every_packet_drops_like_a_policy_and_the_remedy_helps() {
    isolated!(|| {
        let host = Host::new();
        host.write("/etc/selvedge/config.toml", CONFIG);
        let reject = Rule::new().with(Expression::Reject { kind: Reject::Icmpx, code: 3 });
        let firewall = |hook, rules: Vec<Rule>| {
            let mut table = Table::new(Family::Inet, "mine");
            table.chain("base", Chain::base(ChainKind::Filter, hook, 0, rules));
            table.chain("last", Chain::regular(vec![reject.clone()]));
            nft::apply(&[table]).unwrap();
            host.doctor(&["--offline"]).0
        };
        let last = || Rule::new().jump("last");
        let place = "chain base of table inet mine drops";
        expect(&firewall(Hook::Forward, vec![last()]), "firewall", &[("problem", place)]);
        let pods = Rule::new().ip(Ip::V4).payload(PayloadBase::Network, 12, [10, 244]).accept();
        let report = firewall(Hook::Forward, vec![pods, last()]);
        expect(&report, "firewall", &[("warning", "but for rules that name pods")]);
        let report = firewall(Hook::Forward, vec![Rule::new().accept(), last()]);
        expect(&report, "firewall", &[("ok", "nothing drops")]);
        nft::delete(Family::Inet, "mine").unwrap();
        let report = firewall(Hook::Output, vec![last()]);
        expect(&report, "firewall", &[("warning", "drops what this node sends")]);
    });
}

#[test]
fn whom_to_ask_as_has_to_make_sense() {
    let host = Host::new();
    for options in [&["--offline", "--as-agent"][..], &["--as-agent="], &["--as-agent=a\nb"]] {
        let output = host.selvedge(&[&["doctor"], options].concat());
        assert_eq!(output.status.code(), Some(2), "{options:?}: {output:?}");
    }
}
