//! Properties, over Nodes that draw from few names, keys, prefixes and addresses, so that they collide.

use proptest::prelude::*;

use super::*;

fn pool_cidr() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "10.244.1.0/24",
        "10.244.2.0/24",
        "10.244.3.0/24",
        "10.244.0.0/22",
        "10.244.2.128/25",
        "10.244.200.0/24",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "fd00:10:244:1::/64",
        "x",
    ])
    .prop_map(str::to_owned)
}

/// Internal addresses as a hostile kubelet may report them.
fn pool_addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let pool = [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.200",
        "10.244.2.9",
        "10.96.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "::1",
    ];
    let some = proptest::sample::subsequence(pool.to_vec(), 0..5);
    (some, prop_oneof![9 => Just(0u8), 1 => Just(60u8)]).prop_map(|(some, crowd)| {
        let some = some.into_iter().map(|text| text.parse().unwrap());
        some.chain((0..crowd).map(|last| [198, 51, 100, last].into())).collect()
    })
}

fn pool_key() -> impl Strategy<Value = String> {
    prop_oneof![8 => (1u8..6).prop_map(|seed| key(seed).to_string()), 1 => Just(key(OWN).to_string()), 1 => Just("x".into())]
}

prop_compose! {
    fn any_node()(
        n in 1u8..5,
        uid in 0u8..2,
        public_key in pool_key(),
        next in proptest::option::weighted(0.3, pool_key()),
        lanes in proptest::collection::vec(pool_key(), 0..3),
        next_lanes in proptest::collection::vec(pool_key(), 0..2),
        epoch in 0u8..4,
        claimed in pool_cidr(),
        truth in proptest::option::weighted(0.2, pool_cidr()),
        address in 1u8..4,
        internal in pool_addresses(),
        location in proptest::option::of("[ab]"),
        answered in proptest::option::weighted(0.8, any::<bool>()),
    ) -> ObservedNode {
        let mut node = node(n);
        node.uid = format!("uid-{n}-{uid}");
        set(&mut node, PUBLIC_KEY, public_key);
        next.iter().for_each(|next| set(&mut node, NEXT_PUBLIC_KEY, next));
        set(&mut node, LANE_KEYS, lanes.join(","));
        if next.is_some() {
            set(&mut node, NEXT_LANE_KEYS, next_lanes.join(","));
        }
        set(&mut node, KEY_EPOCH, epoch);
        set(&mut node, POD_CIDRS, &claimed);
        set(&mut node, NODE_ADDRESSES, format!("192.0.2.{address}"));
        location.iter().for_each(|location| set(&mut node, LOCATION, location));
        node.confirmed = answered.map(|now| Confirmed {
            uid: node.uid.clone(),
            asked_at: if now { "1".into() } else { "0".into() },
            pod_cidrs: truth.unwrap_or(claimed).parse().into_iter().collect(),
            node_addresses: [&[[192, 0, 2, address].into()], &internal[..]].concat(),
        });
        node
    }
}

/// What the API server could list: each name once.
fn any_nodes() -> impl Strategy<Value = Vec<ObservedNode>> {
    proptest::collection::vec(any_node(), 0..5).prop_map(|nodes| {
        let by_name: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        by_name.into_values().collect()
    })
}

/// No key and no address belongs to two, or to this node.
fn check_sound(fabric: &Fabric, resolution: &Resolution) {
    let own = fabric.own.keys.iter().map(|key| (*key, "own"));
    let theirs = resolution.peers.iter().flat_map(|peer| {
        peer.keys.iter().flat_map(|keys| keys.keys.iter()).map(|key| (key, peer.name.as_str()))
    });
    let mut holders = BTreeMap::new();
    for (key, name) in own.chain(theirs) {
        let before = holders.insert(key, name);
        assert!(before.is_none_or(|before| before == name), "{name} and {before:?} share a key");
    }
    let own = fabric.own.pod_cidrs.iter().map(|net| (*net, "own"));
    let own_addresses = fabric.own.node_addresses.iter().map(|address| (IpNet::from(*address), "own"));
    let theirs =
        resolution.peers.iter().flat_map(|peer| peer.allowed_ips.iter().map(|net| (*net, &*peer.name)));
    let nets: Vec<_> = own.chain(own_addresses).chain(theirs).collect();
    for (index, (net, name)) in nets.iter().enumerate() {
        let other = nets[..index].iter().find(|(other, by)| by != name && range::overlap(other, net));
        assert!(other.is_none(), "{net} of {name} overlaps {other:?}");
    }
    for peer in &resolution.peers {
        assert!(!peer.keys.is_empty() && !peer.allowed_ips.is_empty(), "{peer:?}");
    }
}

/// The members' addresses are usable ones, a bounded number of each Node, and none is left out that a GET has confirmed.
fn check_members(fabric: &Fabric, nodes: &[ObservedNode], resolution: &Resolution) {
    let own = &fabric.own.node_addresses;
    for address in &resolution.addresses {
        let usable = range::special(*address).is_none() && !fabric.ranges.contains(*address);
        assert!(usable && !own.contains(address), "{address} is a member's");
    }
    assert!(
        resolution.addresses.len() <= MAX_NODE_ADDRESSES * (nodes.len() + resolution.records.nodes.len())
    );
    for node in nodes.iter().filter(|node| node.name != fabric.own.name) {
        let confirmed = node.confirmed.iter().flat_map(|confirmed| confirmed.node_addresses.iter().copied());
        let confirmed = node_addresses(&fabric.ranges, confirmed);
        let missing = confirmed
            .iter()
            .find(|address| !own.contains(address) && !resolution.addresses.contains(address));
        assert!(
            missing.is_none() || confirmed.len() == MAX_NODE_ADDRESSES,
            "{missing:?} of {} is not a member's",
            node.name
        );
    }
    for peer in &resolution.peers {
        let addresses = peer.allowed_ips.iter().filter(|net| !fabric.ranges.hold_pods(net)).map(IpNet::addr);
        assert!(addresses.clone().count() <= MAX_NODE_ADDRESSES, "{peer:?}");
        assert!(addresses.clone().all(|address| resolution.addresses.contains(&address)), "{peer:?}");
    }
}

proptest! {
    #[test]
    fn any_history_is_sound_and_in_no_order(history in proptest::collection::vec((any_nodes(), 0usize..24), 1..6)) {
        let fabric = fabric();
        let mut records = Records::default();
        for (nodes, rotation) in history {
            let resolution = resolve(&fabric, &nodes, &records);
            check_sound(&fabric, &resolution);
            check_members(&fabric, &nodes, &resolution);
            let mut reordered = nodes.clone();
            reordered.rotate_left(rotation % nodes.len().max(1));
            if rotation % 2 == 0 {
                reordered.reverse();
            }
            prop_assert_eq!(&resolve(&fabric, &reordered, &records), &resolution);
            let again = resolve(&fabric, &nodes, &resolution.records);
            prop_assert!(resolution.contested.iter().all(|name| resolution.records.nodes.contains_key(name) || nodes.iter().any(|node| node.name == *name) || name == "own"));
            prop_assert_eq!((&again.peers, &again.records), (&resolution.peers, &resolution.records));
            for (name, old) in &records.nodes {
                let there = nodes.iter().find(|node| node.name == *name);
                match resolution.records.nodes.get(name) {
                    Some(new) if new.uid == old.uid => prop_assert!(new.epoch >= old.epoch),
                    new => prop_assert!(there.is_none_or(|there| there.uid != old.uid), "{new:?} after {old:?}"),
                }
            }
            for peer in &resolution.peers {
                prop_assert_eq!(&resolution.records.nodes[&peer.name].uid, &peer.uid);
                let node = nodes.iter().find(|node| node.name == peer.name).unwrap();
                let before = records.nodes.get(&peer.name).filter(|record| record.uid == peer.uid);
                let confirmed = node.confirmed.iter().flat_map(|confirmed| &confirmed.pod_cidrs);
                let known: Vec<_> = confirmed.chain(before.iter().flat_map(|record| &record.pod_cidrs)).collect();
                let nets = peer.allowed_ips.iter().filter(|net| fabric.ranges.hold_pods(net));
                for net in nets {
                    prop_assert!(known.contains(&net), "{net} was never confirmed of {peer:?}");
                }
                // What a GET of now does not show is believed no more.
                if let Some(now) = node.confirmed.iter().find(|now| now.uid == node.uid && now.asked_at == node.resource_version) {
                    let shown = |net: &&IpNet| {
                        now.pod_cidrs.contains(net)
                            || now.node_addresses.iter().any(|address| IpNet::from(*address) == **net)
                    };
                    let hidden = peer.allowed_ips.iter().find(|net| !shown(net));
                    prop_assert!(hidden.is_none(), "{hidden:?} of {peer:?} is gone");
                }
            }
            // What is saved is never taken for damaged.
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("records.json");
            resolution.records.save(&path).unwrap();
            prop_assert_eq!(Records::open(&path).unwrap(), (resolution.records.clone(), None));
            records = resolution.records;
        }
    }

    /// A list that lacks any of the Nodes changes nothing about those that it lacks.
    #[test]
    fn a_list_that_lacks_nodes_changes_nothing(
        history in proptest::collection::vec(any_nodes(), 1..4),
        lacking in proptest::collection::vec(any::<bool>(), 5),
    ) {
        let fabric = fabric();
        let mut before = Resolution::default();
        let mut last = Vec::new();
        for nodes in history {
            before = resolve(&fabric, &nodes, &before.records);
            last = nodes;
        }
        let lacks = |(index, node): (usize, &ObservedNode)| lacking[index] && before.records.nodes.contains_key(&node.name);
        let observed: Vec<_> = last.iter().enumerate().map(|(index, node)| match lacks((index, node)) {
            true => missing(&node.name, &before.records),
            false => node.observed(),
        }).collect();
        let after = super::super::resolve(&fabric, &observed, &before.records);
        check_sound(&fabric, &after);
        let lacking: Vec<&str> = last.iter().enumerate().filter(|it| lacks(*it)).map(|(_, node)| node.name.as_str()).collect();
        for name in &lacking {
            prop_assert_eq!(&after.records.nodes[*name], &before.records.nodes[*name]);
        }
        for peer in before.peers.iter().filter(|peer| lacking.contains(&peer.name.as_str())) {
            prop_assert!(after.peers.contains(peer), "{:?} is {:?}", peer, after.peers);
            let addresses = peer.allowed_ips.iter().filter(|net| !fabric.ranges.hold_pods(net)).map(IpNet::addr);
            prop_assert!(addresses.into_iter().all(|address| after.addresses.contains(&address)));
        }
    }

    /// Whatever a Node of the same location publishes, and whatever its Node object truly says, the peers that
    /// were accepted before stay as they are.
    #[test]
    fn a_hostile_node_affects_nobody_else(
        hostile in proptest::collection::vec(any_node(), 1..5),
        raw in proptest::option::of(("[a-z-]{1,15}", "\\PC{0,40}")),
    ) {
        let fabric = fabric();
        let honest = [node(2), node(3), node(4)];
        let before = resolve(&fabric, &honest, &Records::default());
        prop_assert_eq!(before.peers.len(), 3);
        let mut records = before.records.clone();
        for mut hostile in hostile {
            (hostile.name, hostile.uid) = ("hostile".into(), "uid-hostile".into());
            if let Some(confirmed) = &mut hostile.confirmed {
                confirmed.uid.clone_from(&hostile.uid);
            }
            hostile.annotations.remove(LOCATION);
            if let Some((name, text)) = &raw {
                set(&mut hostile, &format!("selvedge.dev/{name}"), text);
            }
            let mut nodes = honest.to_vec();
            nodes.push(hostile);
            let mut after = resolve(&fabric, &nodes, &records);
            prop_assert!(after.refusals.iter().all(|refusal| refusal.node == "hostile"), "{:?}", after.refusals);
            records = after.records.clone();
            after.peers.retain(|peer| peer.name != "hostile");
            prop_assert_eq!(&after.peers, &before.peers);
        }
    }
}
