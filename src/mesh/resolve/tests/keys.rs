//! Keys: rotation, and claims that contradict each other.

use super::*;

#[test]
fn a_rotating_node_has_two_keys() {
    let mut rotating = node(1);
    set(&mut rotating, NEXT_PUBLIC_KEY, key(11));
    let resolution = resolve(&fabric(), &[rotating.clone()], &accepted(&[node(1)]));
    let keys: Vec<_> =
        resolution.peers[0].keys.iter().map(|keys| (keys.epoch, keys.keys.public_key)).collect();
    assert_eq!(keys, [(5, key(1)), (6, key(11))]);
    let mut promoted = node(1);
    set(&mut promoted, PUBLIC_KEY, key(11));
    set(&mut promoted, KEY_EPOCH, 6);
    let resolution = resolve(&fabric(), &[promoted], &resolution.records);
    assert_eq!(resolution.peers[0].keys.len(), 1);
    assert_eq!(resolution.peers[0].retired, [(5, key(1))], "there may be sessions on it");
    assert_eq!(resolution.records.nodes["n1"].epoch, 6);
    let mut replaced = node(1);
    replaced.uid = "another".into();
    set(&mut replaced, PUBLIC_KEY, key(21));
    set(&mut replaced, KEY_EPOCH, 7);
    let other = resolve(&fabric(), &[replaced], &resolution.records);
    assert!(other.peers.iter().all(|peer| peer.retired.is_empty()), "keys of another Node object");
    // As when this agent was away while the next key was withdrawn or promoted, and one epoch later comes back.
    let mut next = node(1);
    set(&mut next, NEXT_PUBLIC_KEY, key(11));
    let mut later = node(1);
    set(&mut later, PUBLIC_KEY, key(31));
    set(&mut later, KEY_EPOCH, 7);
    let resolution = resolve(&fabric(), &[later], &accepted(&[next]));
    assert_eq!(resolution.peers[0].retired, [(6, key(11)), (5, key(1))], "either may have sessions");
    let back = resolve(&fabric(), &[rotating], &resolution.records);
    assert_eq!(labels(&back), [("n1", "EpochBack")]);
    assert_eq!((names(&back), &back.records), (vec![], &claims_of(&resolution.records)));
}

#[test]
fn an_aborted_rotation_may_be_tried_again_with_another_key() {
    let mut first = node(1);
    set(&mut first, NEXT_PUBLIC_KEY, key(11));
    let records = accepted(&[first.clone()]);
    let records = resolve(&fabric(), &[node(1)], &records).records;
    let mut thief = node(2);
    set(&mut thief, PUBLIC_KEY, key(11));
    assert_eq!(
        names(&resolve(&fabric(), &[node(1), thief], &records)),
        ["n1", "n2"],
        "an aborted key is free"
    );
    set(&mut first, NEXT_PUBLIC_KEY, key(12));
    let resolution = resolve(&fabric(), &[first], &records);
    assert_eq!(resolution.peers[0].keys[1].keys.public_key, key(12));
}

#[test]
fn an_epoch_names_one_key_for_good() {
    let mut replaced = node(1);
    set(&mut replaced, PUBLIC_KEY, key(11));
    let resolution = resolve(&fabric(), &[replaced], &accepted(&[node(1)]));
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n1", "EpochReused")], vec![]));
}

#[test]
fn retired_keys_stay_with_their_node_for_a_while() {
    let mut records = accepted(&[node(1)]);
    for epoch in 6..20u8 {
        let mut rotated = node(1);
        set(&mut rotated, PUBLIC_KEY, key(epoch + 100));
        set(&mut rotated, KEY_EPOCH, epoch);
        records = resolve(&fabric(), &[rotated], &records).records;
        assert!(records.nodes["n1"].keys.len() <= MAX_EPOCHS);
    }
    assert!(records.nodes["n1"].has_key(&key(116)) && !records.nodes["n1"].has_key(&key(1)));
}

#[test]
fn own_keys_and_others_keys_cannot_be_claimed() {
    let records = accepted(&[node(1)]);
    for (stolen, label) in [(key(OWN), "OwnKey"), (key(1), "KeyTaken")] {
        let mut thief = node(2);
        set(&mut thief, PUBLIC_KEY, stolen);
        let resolution = resolve(&fabric(), &[node(1), thief], &records);
        assert_eq!((labels(&resolution), names(&resolution)), (vec![("n2", label)], vec!["n1"]));
        assert!(resolution.refusals[0].no_peer);
        for name in [NEXT_PUBLIC_KEY, LANE_KEYS] {
            let mut thief = node(2);
            set(&mut thief, name, stolen);
            let resolution = resolve(&fabric(), &[node(1), thief], &records);
            assert_eq!((labels(&resolution), names(&resolution)), (vec![("n2", label)], vec!["n1", "n2"]));
            assert!(!resolution.refusals[0].no_peer, "it has a main key of its own");
            let main = PeerKeys { epoch: 5, keys: Keys { public_key: key(2), lanes: vec![] } };
            assert_eq!(resolution.peers[1].keys, [main], "and no other");
        }
    }
}

/// Publishes the main keys of the Nodes from 1 to 127 as its own further lanes and next keys.
fn squatter() -> ObservedNode {
    let keys =
        |numbers: std::ops::Range<u8>| numbers.map(|n| key(n).to_string()).collect::<Vec<_>>().join(",");
    let mut squatter = node(150);
    set(&mut squatter, LANE_KEYS, keys(1..64));
    set(&mut squatter, NEXT_PUBLIC_KEY, key(64));
    set(&mut squatter, NEXT_LANE_KEYS, keys(65..128));
    squatter
}

#[test]
fn lanes_and_next_keys_never_keep_a_newcomer_out() {
    let victims: Vec<_> = (1..128).map(node).collect();
    let all = [&victims[..], &[squatter()]].concat();
    let check = |resolution: &Resolution| {
        let refused: Vec<&str> = resolution.refusals.iter().map(|refusal| refusal.node.as_str()).collect();
        assert!(!refused.is_empty() && refused.iter().all(|name| *name == "n150"), "{refused:?}");
        assert!(resolution.refusals.iter().all(|refusal| !refusal.no_peer));
        assert_eq!(resolution.peers.len(), 128);
        let squatter = resolution.peers.iter().find(|peer| peer.name == "n150").unwrap();
        assert_eq!(
            squatter.keys,
            [PeerKeys { epoch: 5, keys: Keys { public_key: key(150), lanes: vec![] } }]
        );
    };
    let fresh = resolve(&fabric(), &all, &Records::default());
    check(&fresh);
    check(&resolve(&fabric(), &all, &fresh.records));
    // It was there first, with keys of nobody yet.
    let records = resolve(&fabric(), &[squatter()], &Records::default()).records;
    assert!(records.nodes["n150"].has_key(&key(1)) && records.nodes["n150"].has_key(&key(64)));
    let later = resolve(&fabric(), &all, &records);
    check(&later);
    assert_eq!(later.records, fresh.records);
    // The squatter is refused for something else, silent, or missing: what it had accepted gives way all the same.
    let mut silent = squatter();
    silent.annotations.clear();
    let mut broken = squatter();
    set(&mut broken, ENDPOINTS, "nonsense");
    for other in [silent.observed(), broken.observed(), missing("n150", &records)] {
        let mut observed: Vec<_> = victims.iter().map(ObservedNode::observed).collect();
        observed.push(other);
        let resolution = super::super::resolve(&fabric(), &observed, &records);
        let peers = resolution.peers.iter().filter(|peer| peer.name != "n150").count();
        assert_eq!((peers, resolution.records.nodes.len()), (127, 128), "{:?}", resolution.refusals);
        assert!(!resolution.records.nodes["n150"].has_key(&key(1)));
    }
}

/// Alone: where lane keys are disputed as well, the next epoch goes with them.
#[test]
fn an_accepted_next_key_gives_way_to_a_newcomer() {
    let mut squatter = node(1);
    set(&mut squatter, NEXT_PUBLIC_KEY, key(2));
    let records = accepted(&[squatter.clone()]);
    assert!(records.nodes["n1"].has_key(&key(2)), "nobody else had it");
    let resolution = resolve(&fabric(), &[squatter, node(2)], &records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n1", "KeyTaken")], vec!["n1", "n2"]));
    assert!(!resolution.records.nodes["n1"].has_key(&key(2)));
}

#[test]
fn a_newcomer_that_waits_for_its_confirmation_is_a_claimant_already() {
    let records = accepted(&[node(2)]);
    let mut waiting = node(1);
    let answer = waiting.confirmed.take();
    for (name, label) in
        [(LANE_KEYS, "KeyDisputed"), (NEXT_PUBLIC_KEY, "KeyDisputed"), (PUBLIC_KEY, "KeyDisputed")]
    {
        let mut thief = node(2);
        set(&mut thief, name, key(1));
        if name == PUBLIC_KEY {
            set(&mut thief, KEY_EPOCH, 6);
        }
        let resolution = resolve(&fabric(), &[waiting.clone(), thief.clone()], &records);
        assert_eq!((labels(&resolution), names(&resolution)), (vec![("n2", label)], vec!["n2"]));
        assert_eq!(resolution.peers[0].keys[0].keys.public_key, key(2), "it keeps the key of before");
        assert!(!resolution.records.nodes["n2"].has_key(&key(1)));
        // Once it is confirmed: two equal main keys are both refused.
        let confirmed = ObservedNode { confirmed: answer.clone(), ..waiting.clone() };
        let resolution = resolve(&fabric(), &[confirmed, thief], &resolution.records);
        let expected = if name == PUBLIC_KEY { vec!["n2"] } else { vec!["n1", "n2"] };
        assert_eq!(names(&resolution), expected, "{name}");
    }
}

/// Otherwise a hostile Node could end the rotation of every other one.
#[test]
fn an_accepted_next_key_stays_against_nodes_that_have_a_key_of_their_own() {
    let mut rotating = node(1);
    set(&mut rotating, NEXT_PUBLIC_KEY, key(11));
    let records = accepted(&[rotating.clone(), node(2)]);
    let mut thief = node(2);
    set(&mut thief, PUBLIC_KEY, key(11));
    set(&mut thief, KEY_EPOCH, 6);
    let resolution = resolve(&fabric(), &[rotating, thief.clone()], &records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n2", "KeyTaken")], vec!["n1"]));
    assert_eq!(resolution.peers[0].keys.len(), 2);
    let mut promoted = node(1);
    set(&mut promoted, PUBLIC_KEY, key(11));
    set(&mut promoted, KEY_EPOCH, 6);
    let resolution = resolve(&fabric(), &[promoted, thief], &resolution.records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n2", "KeyTaken")], vec!["n1"]));
}

#[test]
fn lanes_that_were_not_believed_are_no_other_keys_of_the_epoch() {
    let mut first = node(1);
    set(&mut first, LANE_KEYS, format!("{},{}", key(21), key(22)));
    let mut second = node(2);
    set(&mut second, LANE_KEYS, key(22));
    let both = resolve(&fabric(), &[first.clone(), second], &Records::default());
    assert_eq!(
        (labels(&both), names(&both)),
        (vec![("n1", "KeyDisputed"), ("n2", "KeyDisputed")], vec!["n1", "n2"])
    );
    let alone = resolve(&fabric(), &[first.clone()], &both.records);
    assert_eq!((labels(&alone), alone.peers[0].keys[0].keys.lanes.len()), (vec![], 2), "they are free again");
    set(&mut first, LANE_KEYS, key(23));
    assert_eq!(labels(&resolve(&fabric(), &[first], &alone.records)), [("n1", "EpochReused")]);
}

#[test]
fn of_new_claims_to_one_key_none_is_believed() {
    let mut copy = node(2);
    set(&mut copy, PUBLIC_KEY, key(1));
    let resolution = resolve(&fabric(), &[node(1), copy, node(3)], &Records::default());
    assert_eq!(labels(&resolution), [("n1", "KeyDisputed"), ("n2", "KeyDisputed")]);
    assert_eq!(names(&resolution), ["n3"]);
    assert!(!resolution.records.nodes.contains_key("n1"));
}

#[test]
fn a_known_node_keeps_its_old_keys_while_a_new_one_is_disputed() {
    let records = accepted(&[node(1)]);
    let before = resolve(&fabric(), &[node(1)], &records);
    let mut copy = node(2);
    set(&mut copy, PUBLIC_KEY, key(11));
    let mut promoted = node(1);
    set(&mut promoted, PUBLIC_KEY, key(11));
    set(&mut promoted, KEY_EPOCH, 6);
    let resolution = resolve(&fabric(), &[promoted, copy.clone()], &records);
    assert_eq!(labels(&resolution), [("n1", "KeyDisputed"), ("n2", "KeyDisputed")]);
    assert_eq!(resolution.refusals.iter().map(|r| r.no_peer).collect::<Vec<_>>(), [false, true]);
    assert_eq!((&resolution.peers, &resolution.records), (&before.peers, &records));
    // A next key gives way to a newcomer's main key, but not to one of a Node that has another.
    let mut rotating = node(1);
    set(&mut rotating, NEXT_PUBLIC_KEY, key(11));
    let resolution = resolve(&fabric(), &[rotating.clone(), copy.clone()], &records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n1", "KeyTaken")], vec!["n1", "n2"]));
    assert_eq!(resolution.peers[0], before.peers[0]);
    let records = accepted(&[node(1), node(2)]);
    set(&mut copy, KEY_EPOCH, 6);
    let resolution = resolve(&fabric(), &[rotating, copy], &records);
    assert_eq!(labels(&resolution), [("n1", "KeyDisputed"), ("n2", "KeyDisputed")]);
    assert!(resolution.refusals.iter().all(|refusal| !refusal.no_peer));
    assert_eq!(claims_of(&resolution.records), claims_of(&records));
}

#[test]
fn who_is_refused_anyway_puts_nobody_in_doubt() {
    let mut copy = node(2);
    set(&mut copy, PUBLIC_KEY, key(1));
    own_cidr(&mut copy, "172.16.0.0/24");
    let resolution = resolve(&fabric(), &[node(1), copy], &Records::default());
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n2", "CIDROutside")], vec!["n1"]));
}

fn revoking(entry: crate::mesh::revoked::RevokedEntry) -> Fabric {
    Fabric { revoked: Arc::new(Revoked::default().with([("r".to_owned(), entry)])), ..fabric() }
}

#[test]
fn revoked_keys_and_barred_nodes_are_not_believed() {
    let nodes = [node(1), node(2)];
    let before = resolve(&fabric(), &nodes, &Records::default());
    assert_eq!(before.peers.len(), 2);
    let refused = |fabric: &Fabric, nodes: &[ObservedNode], records: &Records| {
        let resolution = resolve(fabric, nodes, records);
        let names: Vec<_> = resolution.peers.iter().map(|peer| peer.name.clone()).collect();
        assert_eq!(names, [nodes[1].name.clone()], "{:?}", resolution.refusals);
        assert!(
            resolution.addresses.contains(&"192.0.2.1".parse().unwrap()),
            "its packets are not let out either"
        );
        resolution.refusals[0].reason.label()
    };
    use crate::mesh::revoked::RevokedEntry;
    let of_key = revoking(RevokedEntry { keys: [key(1)].into(), ..RevokedEntry::default() });
    assert_eq!(refused(&of_key, &nodes, &Records::default()), "KeyRevoked");
    assert_eq!(refused(&of_key, &nodes, &before.records), "KeyRevoked", "although it was accepted");
    // Somebody puts the key back, under another Node object and epoch.
    let mut back = node(1);
    (back.uid, back.name) = ("other".into(), "node-1b".into());
    back.annotations.insert(KEY_EPOCH.into(), "99".into());
    assert_eq!(refused(&of_key, &[back, node(2)], &Records::default()), "KeyRevoked");
    // The Node publishes a new key, and is barred.
    let bar = revoking(RevokedEntry { uid: node(1).uid, keys: [key(1)].into(), ..RevokedEntry::default() });
    let mut renewed = node(1);
    renewed.annotations.insert(PUBLIC_KEY.into(), key(7).to_string());
    renewed.annotations.insert(KEY_EPOCH.into(), "6".into());
    assert_eq!(refused(&bar, &[renewed.clone(), node(2)], &before.records), "NodeBarred");
    // Readmitted, it is believed with that, and has no session on the old key.
    let readmitted = RevokedEntry {
        uid: node(1).uid,
        keys: [key(1)].into(),
        readmitted_by: Some("bob".into()),
        ..RevokedEntry::default()
    };
    let after = resolve(&revoking(readmitted), &[renewed, node(2)], &before.records);
    let peer = after.peers.iter().find(|peer| peer.name == node(1).name).unwrap();
    assert_eq!((peer.keys[0].keys.public_key, &peer.retired[..]), (key(7), &[][..]));
}

#[test]
fn a_revoked_next_key_is_left_out_alone() {
    let mut rotating = node(1);
    rotating.annotations.insert(NEXT_PUBLIC_KEY.into(), key(7).to_string());
    let entry = crate::mesh::revoked::RevokedEntry { keys: [key(7)].into(), ..Default::default() };
    let resolution = resolve(&revoking(entry), &[rotating], &Records::default());
    assert_eq!(resolution.peers[0].keys.len(), 1);
    assert!(matches!(
        resolution.refusals[..],
        [Refusal { reason: Reason::KeyRevoked(_), no_peer: false, .. }]
    ));
}
