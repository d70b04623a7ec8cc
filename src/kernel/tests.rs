//! Links, addresses, routes, rules and neighbours against the kernel.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::Address;
use super::link::{self, Bridge, End, Id, Port, Update, Veth};
use super::mac::Mac;
use super::neigh::Neighbour;
use super::netlink::Netlink;
use super::netns::NetNs;
use super::route::{Kind, Route};
use super::rule::{Action, Rule};
use super::{LINK_GROUP, ROUTE_PROTOCOL};

const BRIDGE: Bridge<'_> = Bridge { name: "br", mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1400, group: LINK_GROUP };

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn end(name: &str) -> End<'_> {
    End { name, mac: None, mtu: 1400, group: LINK_GROUP }
}

#[test]
fn bridge_is_made_once_and_repaired() {
    selvedge_lab::isolated!(|| block_on(async {
        let netlink = Netlink::new().unwrap();
        let made = netlink.ensure_bridge(&BRIDGE).await.unwrap();
        assert_eq!((made.kind.as_deref(), made.mac, made.mtu), (Some("bridge"), Some(BRIDGE.mac), 1400));
        assert!(made.up && made.group == LINK_GROUP);
        let down = Update { up: Some(false), mtu: Some(1000), group: Some(0), ..Update::default() };
        netlink.apply([link::update(Id::Name("br"), &down)]).await.unwrap();
        let repaired = netlink.ensure_bridge(&BRIDGE).await.unwrap();
        assert_eq!(netlink.link_named("br").await.unwrap(), Some(repaired.clone()));
        assert_eq!((repaired.index, repaired.mtu, repaired.group), (made.index, 1400, LINK_GROUP));
        let taken = netlink.ensure_bridge(&Bridge { name: "lo", ..BRIDGE }).await.unwrap_err();
        assert!(taken.to_string().contains("create bridge lo"), "{taken}");
        netlink.apply([link::delete(Id::Name("br")), link::delete(Id::Name("br"))]).await.unwrap();
        assert_eq!(netlink.link_named("br").await.unwrap(), None);
    }));
}

#[test]
fn veth_into_another_namespace_and_port_flags() {
    selvedge_lab::isolated!(|| block_on(async {
        let (netlink, other) = (Netlink::new().unwrap(), NetNs::create().unwrap());
        let inside = Netlink::in_ns(&other).unwrap();
        let bridge = netlink.ensure_bridge(&BRIDGE).await.unwrap();
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let peer = End { mac: Some(mac), group: 0, ..end("eth0") };
        let veth = Veth { end: end("slv1"), peer, peer_ns: Some(&other) };
        netlink.apply([veth.create()]).await.unwrap();
        let exists = netlink.apply([veth.create()]).await.unwrap_err();
        assert_eq!(exists.errno(), Some(libc::EEXIST));
        assert!(exists.to_string().starts_with("create veth slv1 with peer eth0: "), "{exists}");

        let port = Port { isolated: true, ..Port::default() };
        let join = Update { master: Some(bridge.index), link_local: Some(false), ..Update::default() };
        let (id, up) = (Id::Name("slv1"), Update { up: Some(true), ..Update::default() });
        inside.apply([link::update(Id::Name("eth0"), &up)]).await.unwrap();
        netlink
            .apply([link::update(id, &join), link::set_port(id, port), link::update(id, &up)])
            .await
            .unwrap();
        let host = netlink.link(id).await.unwrap().unwrap();
        let pod = inside.link_named("eth0").await.unwrap().unwrap();
        assert_eq!((host.port, host.master), (Some(port), Some(bridge.index)));
        assert_eq!((host.peer, pod.peer), (Some(pod.index), Some(host.index)));
        assert_eq!((pod.mac, pod.mtu, pod.group, pod.up), (Some(mac), 1400, 0, true));
        assert_eq!(netlink.addresses(Some(host.index)).await.unwrap(), [], "no link-local address");
        assert_eq!(inside.links().await.unwrap().len(), 2);
    }));
}

#[test]
fn every_change_of_a_batch_is_tried() {
    selvedge_lab::isolated!(|| block_on(async {
        let netlink = Netlink::new().unwrap();
        let up = Update { up: Some(true), ..Update::default() };
        let batch =
            [link::update(Id::Name("nobody"), &up), BRIDGE.create(), link::delete(Id::Name("nobody"))];
        let results = netlink.apply_each(batch).await;
        let error = results[0].as_ref().unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert!(error.to_string().contains("change device nobody (up)"), "{error}");
        assert!(results[1].as_ref().unwrap());
        assert!(!results[2].as_ref().unwrap(), "gone already is no change");
        assert!(netlink.link_named("br").await.unwrap().is_some());
    }));
}

#[test]
fn addresses_come_and_go() {
    selvedge_lab::isolated!(|| block_on(async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&BRIDGE).await.unwrap().index;
        let both = [Address::new(bridge, net("10.1.0.1/32")), Address::new(bridge, net("fd00::1/128"))];
        netlink.apply(both.map(Address::add)).await.unwrap();
        netlink.apply(both.map(Address::add)).await.unwrap();
        let found = netlink.addresses(Some(bridge)).await.unwrap();
        assert!(both.iter().all(|address| found.contains(address)), "{found:?}");
        netlink.apply(both.iter().chain(&both).map(|address| address.delete())).await.unwrap();
        let found = netlink.addresses(Some(bridge)).await.unwrap();
        assert!(!both.iter().any(|address| found.contains(address)), "{found:?}");
        let error = netlink.apply([Address::new(999, net("10.1.0.1/32")).add()]).await.unwrap_err();
        assert!(error.to_string().contains("add address 10.1.0.1/32 to device 999"), "{error}");
    }));
}

#[test]
fn routes_become_what_is_desired() {
    selvedge_lab::isolated!(|| block_on(async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&BRIDGE).await.unwrap().index;
        netlink.apply([Address::new(bridge, net("10.1.0.1/32")).add()]).await.unwrap();
        let desired = [
            Route::on_link(net("10.0.0.0/8"), bridge).with_source(ip("10.1.0.1")),
            Route::on_link(net("fd00::/48"), bridge),
            Route::unreachable(net("10.0.0.0/8")).with_metric(9999),
            Route::unreachable(net("fd00::/48")).with_metric(9999),
            Route::via(net("192.0.2.0/24"), ip("10.1.0.2"), bridge).with_table(51830),
            Route { kind: Kind::Blackhole, ..Route::unreachable(net("::/0")) },
            Route { kind: Kind::Throw, ..Route::unreachable(net("0.0.0.0/0")).with_table(51830) },
        ];
        assert_eq!(netlink.sync_routes(&desired, |_| true).await.unwrap().len(), desired.len());
        assert_eq!(netlink.sync_routes(&desired, |_| true).await.unwrap(), Vec::<String>::new());

        // Another part's route stays, a stale one goes, a changed one is replaced in place.
        let pod = Route::on_link(net("10.1.0.7/32"), bridge);
        netlink.apply([pod.replace()]).await.unwrap();
        let owns = |route: &Route| route.destination.prefix_len() != 32;
        let fewer = [desired[0].clone(), Route { kind: Kind::Prohibit, ..desired[2].clone() }];
        netlink.sync_routes(&fewer, owns).await.unwrap();
        let mut found = netlink.routes().await.unwrap();
        found.sort();
        let mut wanted = vec![pod, fewer[0].clone(), fewer[1].clone()];
        wanted.sort();
        assert_eq!(found, wanted);
        netlink.apply([fewer[0].delete(), fewer[0].delete()]).await.unwrap();
    }));
}

#[test]
fn other_protocols_are_not_touched() {
    selvedge_lab::isolated!(|| block_on(async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&BRIDGE).await.unwrap().index;
        // The kernel adds a route of its own (protocol 2) for the prefix.
        netlink.apply([Address::new(bridge, net("10.1.0.1/24")).add()]).await.unwrap();
        netlink.sync_routes(&[], |_| true).await.unwrap();
        netlink.sync_rules(&[]).await.unwrap();
        let table = std::fs::read_to_string("/proc/net/route").unwrap();
        assert!(table.lines().any(|line| line.starts_with("br\t0000010A")), "{table}");
        assert_eq!(ROUTE_PROTOCOL, 83);
    }));
}

#[test]
fn rules_become_what_is_desired() {
    selvedge_lab::isolated!(|| block_on(async {
        let netlink = Netlink::new().unwrap();
        let any = Rule::from_source(net("::/0"), 5184, 254);
        let desired = [
            Rule::from_source(net("10.1.0.0/24"), 5183, 51830),
            Rule::from_source(net("fd00::/64"), 5183, 51830).to_destination(net("2001:db8::1/128")),
            Rule { unmarked: Some(1 << 24), ..Rule::from_device("br", true, 5186, Action::Unreachable) },
            Rule { suppress_prefix_length: Some(0), input: Some("br".to_owned()), source: None, ..any },
            Rule { action: Action::Unreachable, ..Rule::from_source(net("10.1.0.0/24"), 5185, 0) },
            Rule { marked: Some(1 << 24), ..Rule::from_source(net("10.1.0.0/24"), 5186, 51830) },
        ];
        assert_eq!(netlink.sync_rules(&desired).await.unwrap().len(), 6);
        assert_eq!(netlink.sync_rules(&desired).await.unwrap(), Vec::<String>::new());
        let changed = netlink.sync_rules(&desired[..1]).await.unwrap();
        assert_eq!(changed.len(), 5, "{changed:?}");
        assert_eq!(netlink.rules().await.unwrap(), &desired[..1]);
    }));
}

#[test]
fn neighbours_are_permanent() {
    selvedge_lab::isolated!(|| block_on(async {
        let netlink = Netlink::new().unwrap();
        let device = netlink.ensure_bridge(&BRIDGE).await.unwrap().index;
        let four = Neighbour { device, address: ip("10.1.0.7"), mac: Mac([2, 0, 0, 0, 0, 7]) };
        let six = Neighbour { address: ip("fd00::7"), ..four };
        netlink.apply([four.replace(), six.replace(), four.replace()]).await.unwrap();
        let mut found = netlink.neighbours().await.unwrap();
        found.sort();
        assert_eq!(found, [four, six]);
        netlink.apply([four.delete(), six.delete(), six.delete()]).await.unwrap();
        assert_eq!(netlink.neighbours().await.unwrap(), []);
    }));
}
