//! What others take away is put back.

use selvedge::kernel::link::{self, Id, Port, Update};
use selvedge::kernel::netlink::{Change, Netlink};
use selvedge::kernel::nft::{self, Family};
use selvedge::kernel::route::Route;
use selvedge::kernel::sysctl;
use selvedge::pod::repair;

use crate::node::{Node, Pod, block_on, node, tcp};

fn change(changes: Vec<Change>) {
    block_on(async { Netlink::new().unwrap().apply(changes).await.unwrap() });
}

fn repaired(node: &Node) -> Vec<String> {
    block_on(async { repair(&Netlink::new().unwrap(), &node.paths, &node.info).await.unwrap() })
}

type Damage = fn(&Pod);

const DAMAGES: [(&str, Damage); 11] = [
    ("route to 10.244.1.", |_| {
        let routes = block_on(async { Netlink::new().unwrap().routes().await.unwrap() });
        change(routes.iter().map(Route::delete).collect());
    }),
    ("the rules against spoofing", |_| {
        nft::delete(Family::Netdev, "selvedge-ports").unwrap();
    }),
    ("behind the port (inet)", |_| {
        assert!(nft::delete(Family::Inet, "selvedge-ports").unwrap());
    }),
    ("(bridge)", |_| {
        assert!(nft::delete(Family::Bridge, "selvedge-ports").unwrap());
    }),
    ("(bridge)", |pod| {
        let (mut changes, key) =
            (nft::Update::new(Family::Bridge, "selvedge-ports"), nft::padded(&pod.port()));
        nft::Connection::open().unwrap().update(changes.delete("ports", key)).unwrap();
    }),
    ("is down", |pod| {
        let down = Update { up: Some(false), ..Update::default() };
        change(vec![link::update(Id::Name(&pod.port()), &down)]);
    }),
    ("is not in bridge", |pod| {
        let alone = Update { master: Some(0), ..Update::default() };
        change(vec![link::update(Id::Name(&pod.port()), &alone)]);
    }),
    ("is not isolated", |pod| change(vec![link::set_port(Id::Name(&pod.port()), Port::default())])),
    ("is in link group", |pod| {
        let other = Update { group: Some(1), ..Update::default() };
        change(vec![link::update(Id::Name(&pod.port()), &other)]);
    }),
    ("sysctl net/ipv6/conf/all/forwarding is 0", |_| {
        sysctl::write("ipv6/conf/all/forwarding", "0").unwrap();
    }),
    ("bridge selvedge-br is missing", |_| change(vec![link::delete(Id::Name("selvedge-br"))])),
];

#[test]
fn whatever_is_taken_away_comes_back() {
    selvedge_lab::isolated!(|| {
        let node = node();
        assert_eq!(repaired(&node), Vec::<String>::new());
        let (a, b) = (node.add("a"), node.add("b"));
        assert_eq!(repaired(&node), Vec::<String>::new());
        for (what, damage) in DAMAGES {
            damage(&a);
            let done = repaired(&node);
            assert!(done.iter().any(|done| done.contains(what)), "`{what}` is not in {done:?}");
            block_on(async {
                let netlink = Netlink::new().unwrap();
                selvedge::pod::gateway::ensure_unreachable(&netlink, &node.info).await.unwrap();
            });
            assert_eq!(repaired(&node), Vec::<String>::new(), "after {what}");
            for pod in [&a, &b] {
                let said = node.check(pod);
                assert!(said.success, "after {what}: {}", said.output);
            }
            for ipv6 in [false, true] {
                assert_eq!(tcp(&a.netns, &b.netns, b.address(ipv6)), a.address(ipv6), "after {what}");
            }
        }
    });
}

#[test]
fn a_port_that_is_gone_stays_gone() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let (a, b) = (node.add("a"), node.add("b"));
        change(vec![link::delete(Id::Name(&a.port()))]);
        assert_eq!(repaired(&node), Vec::<String>::new());
        assert!(!node.check(&a).success && node.check(&b).success);
        node.del(&a);
        assert!(node.gc(&[&b]).success);
        assert!(node.check(&b).success);
    });
}
