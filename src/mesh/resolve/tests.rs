use super::*;
use crate::mesh::annotation::tests::key;
use crate::mesh::annotation::{
    self, ENDPOINTS, KEY_EPOCH, LANE_KEYS, LOCATION, MAX_NODE_ADDRESSES, NEXT_LANE_KEYS, NEXT_PUBLIC_KEY,
    NODE_ADDRESSES, POD_CIDRS, PUBLIC_KEY,
};

mod keys;
mod properties;

const OWN: u8 = 200;

/// A Node as texts; `confirmed` is what was asked at one of its versions.
#[derive(Debug, Clone)]
struct ObservedNode {
    name: String,
    uid: String,
    resource_version: String,
    annotations: BTreeMap<String, String>,
    confirmed: Option<Confirmed>,
}

#[derive(Debug, Clone)]
struct Confirmed {
    uid: String,
    asked_at: String,
    pod_cidrs: Vec<IpNet>,
    node_addresses: Vec<IpAddr>,
}

impl ObservedNode {
    fn claims(&self) -> NodeClaims {
        let published = annotation::parse(&self.annotations);
        NodeClaims { name: self.name.clone(), uid: self.uid.clone(), published }
    }

    fn confirmed(&self) -> Option<super::Confirmed> {
        let confirmed = self.confirmed.clone()?;
        let asked = (confirmed.asked_at == self.resource_version).then(|| self.claims().facts());
        let facts = Facts { pod_cidrs: confirmed.pod_cidrs, node_addresses: confirmed.node_addresses };
        Some(super::Confirmed { uid: confirmed.uid, asked, facts })
    }

    fn observed(&self) -> super::ObservedNode {
        super::ObservedNode { claims: Arc::new(self.claims()), confirmed: self.confirmed().map(Arc::new) }
    }
}

fn resolve(fabric: &Fabric, nodes: &[ObservedNode], records: &Records) -> Resolution {
    let observed: Vec<_> = nodes.iter().map(ObservedNode::observed).collect();
    super::resolve(fabric, &observed, records)
}

fn fabric() -> Fabric {
    let nets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    Fabric {
        own: OwnClaims {
            name: "own".into(),
            keys: vec![key(OWN)],
            pod_cidrs: vec!["10.244.200.0/24".parse().unwrap()],
            node_addresses: vec!["192.0.2.200".parse().unwrap()],
            location: None,
        },
        revoked: Arc::default(),
        ranges: ClusterRanges {
            pods: nets(["10.244.0.0/16", "fd00:10:244::/56"]),
            services: nets(["10.96.0.0/16", "fd00:10:96::/112"]),
        },
        ipv4: true,
        ipv6: true,
    }
}

/// The honest Node number `n`, confirmed.
fn node(n: u8) -> ObservedNode {
    let texts = [
        (PUBLIC_KEY, key(n).to_string()),
        (KEY_EPOCH, "5".into()),
        (ENDPOINTS, format!("192.0.2.{n}:51830")),
        (POD_CIDRS, format!("10.244.{n}.0/24")),
        (NODE_ADDRESSES, format!("192.0.2.{n}")),
    ];
    ObservedNode {
        name: format!("n{n}"),
        uid: format!("uid-{n}"),
        resource_version: "1".into(),
        annotations: texts.map(|(name, text)| (name.to_owned(), text)).into(),
        confirmed: Some(Confirmed {
            uid: format!("uid-{n}"),
            asked_at: "1".into(),
            pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
            node_addresses: vec![[192, 0, 2, n].into()],
        }),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "calls read better without references")]
fn set(node: &mut ObservedNode, name: &str, text: impl ToString) {
    node.annotations.insert(name.into(), text.to_string());
}

/// Makes the Node have these pod CIDRs, in its annotation and in truth.
fn own_cidr(node: &mut ObservedNode, cidr: &str) {
    set(node, POD_CIDRS, cidr);
    node.confirmed.as_mut().unwrap().pod_cidrs = vec![cidr.parse().unwrap()];
}

fn own_address(node: &mut ObservedNode, address: &str) {
    set(node, NODE_ADDRESSES, address);
    node.confirmed.as_mut().unwrap().node_addresses = vec![address.parse().unwrap()];
}

fn accepted(nodes: &[ObservedNode]) -> Records {
    let resolution = resolve(&fabric(), nodes, &Records::default());
    assert_eq!(resolution.refusals, []);
    resolution.records
}

/// The records as claims alone: how a peer is reached is another matter.
fn claims_of(records: &Records) -> Records {
    let nodes =
        records.nodes.iter().map(|(name, record)| (name.clone(), Record { reach: None, ..record.clone() }));
    Records { nodes: nodes.collect() }
}

fn names(resolution: &Resolution) -> Vec<&str> {
    resolution.peers.iter().map(|peer| peer.name.as_str()).collect()
}

fn labels(resolution: &Resolution) -> Vec<(&str, &str)> {
    resolution.refusals.iter().map(|refusal| (refusal.node.as_str(), refusal.reason.label())).collect()
}

fn allowed(resolution: &Resolution, name: &str) -> Vec<String> {
    let peer = resolution.peers.iter().find(|peer| peer.name == name).unwrap();
    peer.allowed_ips.iter().map(ToString::to_string).collect()
}

#[test]
fn honest_nodes_become_peers() {
    let resolution = resolve(&fabric(), &[node(2), node(1)], &Records::default());
    assert_eq!(names(&resolution), ["n1", "n2"]);
    let peer = &resolution.peers[0];
    assert_eq!((peer.uid.as_str(), peer.keys[0].epoch), ("uid-1", 5));
    assert_eq!(peer.endpoints, ["192.0.2.1:51830".parse().unwrap()]);
    assert_eq!(allowed(&resolution, "n1"), ["10.244.1.0/24", "192.0.2.1/32"]);
    assert_eq!(resolution.confirm, Vec::<String>::new());
}

#[test]
fn this_node_and_those_without_key_or_cidr_are_no_peers_and_no_trouble() {
    let mut own = node(9);
    own.name = "own".into();
    let mut plain = node(1);
    plain.annotations.clear();
    let mut waiting = node(2);
    waiting.annotations.remove(POD_CIDRS);
    let resolution = resolve(&fabric(), &[own, plain, waiting], &Records::default());
    let addresses = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap()).to_vec();
    assert_eq!(resolution, Resolution { addresses, ..Resolution::default() });
}

#[test]
fn pod_cidrs_stay_inside_and_apart() {
    let records = accepted(&[node(1)]);
    for (cidr, label) in [
        ("10.0.0.0/8", "CIDROutside"),
        ("10.245.0.0/24", "CIDROutside"),
        ("0.0.0.0/0", "MalformedAnnotation"),
        ("10.244.0.0/16", "CIDRTaken"),
        ("10.244.1.0/24", "CIDRTaken"),
        ("10.244.1.128/25", "CIDRTaken"),
        ("10.244.200.0/24", "CIDRTaken"),
    ] {
        let mut thief = node(2);
        own_cidr(&mut thief, cidr);
        let resolution = resolve(&fabric(), &[node(1), thief], &records);
        assert_eq!((labels(&resolution), names(&resolution)), (vec![("n2", label)], vec!["n1"]), "{cidr}");
    }
}

#[test]
fn what_was_accepted_counts_only_inside_the_ranges_of_now() {
    let records = accepted(&[node(1)]);
    let mut changed = node(1);
    set(&mut changed, POD_CIDRS, "10.245.1.0/24");
    changed.confirmed = None;
    let mut fabric = fabric();
    fabric.ranges.pods = vec!["10.245.0.0/16".parse().unwrap()];
    let resolution = resolve(&fabric, &[changed], &records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n1", "CIDROutside")], vec![]));
}

#[test]
fn of_new_claims_to_one_cidr_none_is_believed() {
    let mut copy = node(2);
    own_cidr(&mut copy, "10.244.0.0/23");
    let resolution = resolve(&fabric(), &[node(1), copy], &Records::default());
    assert_eq!(labels(&resolution), [("n1", "CIDRDisputed"), ("n2", "CIDRDisputed")]);
    assert_eq!(names(&resolution), Vec::<&str>::new());
}

#[test]
fn a_new_node_waits_for_its_confirmation() {
    let mut fresh = node(1);
    let answer = fresh.confirmed.take();
    let resolution = resolve(&fabric(), &[fresh.clone()], &Records::default());
    assert_eq!((names(&resolution), &resolution.confirm), (vec![], &vec!["n1".to_owned()]));
    fresh.confirmed = answer;
    let resolution = resolve(&fabric(), &[fresh.clone()], &Records::default());
    assert_eq!((names(&resolution), &resolution.confirm), (vec!["n1"], &vec![]));
    fresh.confirmed = None;
    assert_eq!(names(&resolve(&fabric(), &[fresh], &resolution.records)), ["n1"], "the record is enough");
}

#[test]
fn a_node_is_asked_for_once_a_claim_and_whenever_it_waits() {
    let asked = |node: &ObservedNode| need(&node.claims(), node.confirmed().as_ref());
    let records = accepted(&[node(1)]);
    let recorded = super::Confirmed::from_record(&records.nodes["n1"]);
    let mut changing = node(1);
    assert_eq!(need(&changing.claims(), None), Need::Now);
    assert_eq!((asked(&changing), need(&changing.claims(), Some(&recorded))), (Need::Nothing, Need::Nothing));
    set(&mut changing, POD_CIDRS, "10.244.7.0/24");
    changing.resource_version = "2".into();
    assert_eq!((asked(&changing), need(&changing.claims(), Some(&recorded))), (Need::Now, Need::Now));
    changing.confirmed.as_mut().unwrap().asked_at = "2".into();
    assert_eq!(asked(&changing), Need::Later, "it is refused");
    changing.annotations.clear();
    assert_eq!(asked(&changing), Need::Later, "it is not a member");
    changing.uid = "uid-new".into();
    assert_eq!(asked(&changing), Need::Now, "it is another Node");
}

#[test]
fn a_changed_cidr_waits_and_a_false_one_is_refused() {
    let records = accepted(&[node(1)]);
    let mut changed = node(1);
    set(&mut changed, POD_CIDRS, "10.244.7.0/24");
    changed.resource_version = "2".into();
    let resolution = resolve(&fabric(), &[changed.clone()], &records);
    assert_eq!(resolution.confirm, ["n1"]);
    assert_eq!(allowed(&resolution, "n1"), ["10.244.1.0/24", "192.0.2.1/32"], "until then as it was");
    changed.confirmed.as_mut().unwrap().asked_at = "2".into();
    let resolution = resolve(&fabric(), &[changed], &records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n1", "CIDRsUnconfirmed")], vec![]));
    assert_eq!((resolution.confirm, resolution.records), (vec![], claims_of(&records)));
}

#[test]
fn an_answer_about_another_node_of_the_same_name_does_not_count() {
    let mut recreated = node(1);
    recreated.uid = "uid-new".into();
    let resolution = resolve(&fabric(), &[recreated], &Records::default());
    assert_eq!((names(&resolution), &resolution.confirm), (vec![], &vec!["n1".to_owned()]));
}

#[test]
fn false_addresses_leave_the_peer_with_those_known() {
    let records = accepted(&[node(1)]);
    let mut changed = node(1);
    set(&mut changed, NODE_ADDRESSES, "198.51.100.1");
    let resolution = resolve(&fabric(), &[changed], &records);
    assert_eq!(labels(&resolution), [("n1", "AddressesUnconfirmed")]);
    assert!(!resolution.refusals[0].no_peer);
    assert_eq!(allowed(&resolution, "n1"), ["10.244.1.0/24", "192.0.2.1/32"]);
}

#[test]
fn addresses_and_endpoints_in_the_clusters_ranges_are_refused() {
    let mut inside = node(1);
    own_address(&mut inside, "10.96.0.1");
    let resolution = resolve(&fabric(), &[inside], &Records::default());
    assert_eq!(labels(&resolution), [("n1", "AddressInside")]);
    assert_eq!(allowed(&resolution, "n1"), ["10.244.1.0/24"]);
    for endpoint in ["10.244.3.3:51830", "[fd00:10:96::1]:51830"] {
        let mut inside = node(1);
        set(&mut inside, ENDPOINTS, endpoint);
        let resolution = resolve(&fabric(), &[inside], &Records::default());
        assert_eq!((labels(&resolution), names(&resolution)), (vec![("n1", "EndpointInside")], vec![]));
    }
}

#[test]
fn usable_addresses_are_bounded_in_kind_and_number() {
    let given =
        ["192.0.2.7", "127.0.0.1", "fe80::1", "10.244.0.1", "10.96.0.1", "192.0.2.7", "fd00::2", "0.0.0.9"];
    let usable = |given: &[&str]| {
        let given = given.iter().map(|text| text.parse::<IpAddr>().unwrap());
        node_addresses(&fabric().ranges, given).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(usable(&given), ["192.0.2.7", "fd00::2"]);
    let crowd: Vec<String> = (0..100).map(|number| format!("198.51.100.{number}")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    assert_eq!(usable(&crowd).len(), MAX_NODE_ADDRESSES);
}

#[test]
fn only_usable_addresses_are_members_and_those_of_refused_nodes_too() {
    let mut hostile = node(1);
    set(&mut hostile, ENDPOINTS, "nonsense");
    let given = ["192.0.2.1", "10.244.2.2", "10.96.0.1", "169.254.169.254", "224.0.0.5", "192.0.2.200"];
    hostile.confirmed.as_mut().unwrap().node_addresses = given.map(|text| text.parse().unwrap()).to_vec();
    let resolution = resolve(&fabric(), &[hostile, node(2)], &Records::default());
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n1", "MalformedAnnotation")], vec!["n2"]));
    let members: Vec<String> = resolution.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(members, ["192.0.2.1", "192.0.2.2"], "neither pods, nor special ranges, nor this node itself");
    let mut records = accepted(&[node(2)]);
    records.nodes.get_mut("n2").unwrap().node_addresses =
        ["10.244.9.9", "192.0.2.2"].map(|text| text.parse().unwrap()).to_vec();
    let resolution = resolve(&fabric(), &[node(2)], &records);
    assert_eq!(resolution.addresses, ["192.0.2.2".parse::<IpAddr>().unwrap()], "nor what a record had");
}

#[test]
fn a_crowd_of_addresses_is_cut_everywhere() {
    let mut crowded = node(1);
    let crowd = (0..200u8).map(|number| IpAddr::from([198, 51, 100, number]));
    crowded.confirmed.as_mut().unwrap().node_addresses.extend(crowd);
    let resolution = resolve(&fabric(), &[crowded], &Records::default());
    assert_eq!(resolution.addresses.len(), MAX_NODE_ADDRESSES);
    assert!(resolution.records.nodes["n1"].node_addresses.len() <= MAX_NODE_ADDRESSES);
}

#[test]
fn an_address_of_two_clouds_belongs_to_the_own_location() {
    let mut fabric = fabric();
    fabric.own.location = Some("a".into());
    let at = |n: u8, location: &str| {
        let mut node = node(n);
        set(&mut node, LOCATION, location);
        own_address(&mut node, "192.0.2.77");
        node
    };
    let none = Records::default();
    let resolution = resolve(&fabric, &[at(1, "a"), at(2, "b")], &none);
    assert_eq!(labels(&resolution), []);
    assert_eq!(allowed(&resolution, "n1"), ["10.244.1.0/24", "192.0.2.77/32"]);
    assert_eq!(allowed(&resolution, "n2"), ["10.244.2.0/24"]);
    let resolution = resolve(&fabric, &[at(1, "c"), at(2, "b")], &none);
    assert_eq!(labels(&resolution), [("n1", "AddressShared"), ("n2", "AddressShared")]);
    assert_eq!(allowed(&resolution, "n1"), ["10.244.1.0/24"]);
    fabric.own.node_addresses = vec!["192.0.2.77".parse().unwrap()];
    let resolution = resolve(&fabric, &[at(1, "c"), at(2, "a")], &none);
    assert_eq!(allowed(&resolution, "n2"), ["10.244.2.0/24"], "this node's own address goes to no peer");
}

#[test]
fn an_accepted_address_stays_with_its_node_in_one_location() {
    let mut records = accepted(&[node(1)]);
    let mut thief = node(2);
    own_address(&mut thief, "192.0.2.1");
    for _ in 0..3 {
        let resolution = resolve(&fabric(), &[node(1), thief.clone()], &records);
        assert_eq!(labels(&resolution), [("n2", "AddressShared")]);
        assert_eq!(allowed(&resolution, "n1"), ["10.244.1.0/24", "192.0.2.1/32"]);
        assert_eq!(allowed(&resolution, "n2"), ["10.244.2.0/24"]);
        records = resolution.records;
    }
    let mut silent = node(1);
    silent.annotations.clear();
    let resolution = resolve(&fabric(), &[silent, thief.clone()], &records);
    assert_eq!(allowed(&resolution, "n2"), ["10.244.2.0/24"], "nor while it is no peer");
    let resolution = resolve(&fabric(), &[thief], &records);
    assert_eq!(allowed(&resolution, "n2"), ["10.244.2.0/24", "192.0.2.1/32"], "but once it is gone");
}

#[test]
fn what_a_node_gives_up_is_free_at_once() {
    let mut wide = node(1);
    own_cidr(&mut wide, "10.244.0.0/22");
    let records = accepted(&[wide]);
    let mut third = node(3);
    own_address(&mut third, "192.0.2.2");
    let mut second = node(2);
    own_address(&mut second, "192.0.2.1");
    let mut first = node(1);
    own_address(&mut first, "192.0.2.9");
    let resolution = resolve(&fabric(), &[third, second, first], &records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![], vec!["n1", "n2", "n3"]));
    assert_eq!(allowed(&resolution, "n2"), ["10.244.2.0/24", "192.0.2.1/32"]);
    assert_eq!(allowed(&resolution, "n3"), ["10.244.3.0/24", "192.0.2.2/32"]);
}

#[test]
fn a_deleted_node_frees_its_claims() {
    let mut heir = node(2);
    set(&mut heir, PUBLIC_KEY, key(1));
    own_cidr(&mut heir, "10.244.1.0/24");
    let records = accepted(&[node(1)]);
    assert_eq!(labels(&resolve(&fabric(), &[node(1), heir.clone()], &records)), [("n2", "KeyTaken")]);
    let resolution = resolve(&fabric(), &[heir], &records);
    assert_eq!((names(&resolution), labels(&resolution)), (vec!["n2"], vec![]));
    assert_eq!(resolution.records.nodes.keys().collect::<Vec<_>>(), ["n2"]);
}

/// A Node that goes on publishing what its object does not show any more.
fn outdated(n: u8) -> ObservedNode {
    let mut outdated = node(n);
    let confirmed = outdated.confirmed.as_mut().unwrap();
    confirmed.pod_cidrs = vec!["10.244.99.0/24".parse().unwrap()];
    confirmed.node_addresses = vec!["192.0.2.99".parse().unwrap()];
    outdated
}

#[test]
fn what_a_get_no_longer_shows_is_free_whatever_its_former_owner_publishes() {
    let records = accepted(&[node(1)]);
    let (mut next, mut silent, mut moved) = (node(2), outdated(1), outdated(1));
    own_address(&mut next, "192.0.2.1");
    silent.annotations.clear();
    moved.confirmed.as_mut().unwrap().pod_cidrs = node(1).confirmed.unwrap().pod_cidrs;
    for (former, refused) in [(moved, vec![("n1", "AddressesUnconfirmed")]), (silent, vec![])] {
        let resolution = resolve(&fabric(), &[former, next.clone()], &records);
        assert_eq!(labels(&resolution), refused);
        assert_eq!(allowed(&resolution, "n2"), ["10.244.2.0/24", "192.0.2.1/32"]);
        let former = resolution.peers.iter().find(|peer| peer.name == "n1");
        assert!(
            former.is_none_or(|peer| peer.allowed_ips == ["10.244.1.0/24".parse().unwrap()]),
            "{former:?}"
        );
        assert!(!resolution.records.nodes["n1"].node_addresses.contains(&"192.0.2.1".parse().unwrap()));
    }
    let mut heir = node(3);
    own_cidr(&mut heir, "10.244.1.0/24");
    let resolution = resolve(&fabric(), &[outdated(1), heir], &records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![("n1", "CIDRsUnconfirmed")], vec!["n3"]));
}

#[test]
fn who_has_what_another_claims_is_asked_for_again() {
    let records = accepted(&[node(1)]);
    let known = |mut node: ObservedNode| {
        node.confirmed.as_mut().unwrap().asked_at = "before".into();
        node
    };
    let (mut squatter, mut neighbour, mut silent) = (node(2), node(3), node(4));
    own_cidr(&mut squatter, "10.244.1.0/24");
    own_address(&mut neighbour, "192.0.2.1");
    own_address(&mut silent, "192.0.2.1");
    silent.annotations.clear();
    for other in [squatter, neighbour, silent] {
        let resolution = resolve(&fabric(), &[known(node(1)), other.clone()], &records);
        assert_eq!(resolution.contested, ["n1".to_owned()].into(), "{other:?}");
        assert!(names(&resolution).contains(&"n1"), "until then all is as it was");
    }
    assert_eq!(resolve(&fabric(), &[node(1), node(2)], &records).contested, BTreeSet::new());
}

/// As the mesh controller gives a Node that a list lacks.
fn missing(name: &str, records: &Records) -> super::ObservedNode {
    let record = &records.nodes[name];
    super::ObservedNode::remembered(name, record, Arc::new(super::Confirmed::from_record(record)))
}

#[test]
fn a_missing_node_stays_as_it_was() {
    let mut rotating = node(1);
    set(&mut rotating, NEXT_PUBLIC_KEY, key(11));
    set(&mut rotating, LOCATION, "a");
    let before = resolve(&fabric(), &[rotating, node(2)], &Records::default());
    let observed = [missing("n1", &before.records), node(2).observed()];
    let after = super::resolve(&fabric(), &observed, &before.records);
    assert_eq!(after, before, "its peer, its addresses and its record");
}

#[test]
fn a_missing_node_that_was_refused_is_no_peer_and_keeps_its_claims() {
    let mut broken = node(1);
    set(&mut broken, ENDPOINTS, "nonsense");
    let records = resolve(&fabric(), &[broken], &accepted(&[node(1)])).records;
    let resolution = super::resolve(&fabric(), &[missing("n1", &records)], &records);
    assert_eq!((names(&resolution), labels(&resolution), &resolution.records), (vec![], vec![], &records));
    assert_eq!(resolution.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn what_a_missing_node_has_is_refused_to_newcomers_by_its_name() {
    let records = accepted(&[node(1)]);
    let (mut key_thief, mut squatter, mut neighbour) = (node(2), node(3), node(4));
    set(&mut key_thief, PUBLIC_KEY, key(1));
    own_cidr(&mut squatter, "10.244.1.0/24");
    own_address(&mut neighbour, "192.0.2.1");
    let newcomers = [key_thief, squatter, neighbour];
    let mut observed: Vec<_> = newcomers.iter().map(ObservedNode::observed).collect();
    observed.push(missing("n1", &records));
    let resolution = super::resolve(&fabric(), &observed, &records);
    assert_eq!(labels(&resolution), [("n2", "KeyTaken"), ("n3", "CIDRTaken"), ("n4", "AddressShared")]);
    assert!(resolution.refusals.iter().all(|refusal| refusal.reason.other() == Some("n1")));
    assert!(resolution.refusals.iter().all(|refusal| refusal.reason.to_string().contains("n1")));
    assert_eq!(allowed(&resolution, "n1"), ["10.244.1.0/24", "192.0.2.1/32"]);
    // A deletion, or a GET that finds no such Node, frees all of it.
    let resolution = resolve(&fabric(), &newcomers, &records);
    assert_eq!((labels(&resolution), names(&resolution)), (vec![], vec!["n2", "n3", "n4"]));
}

#[test]
fn a_missing_node_has_nothing_that_is_this_nodes_own() {
    let records = accepted(&[node(1)]);
    let mut fabric = fabric();
    fabric.own.pod_cidrs = vec!["10.244.1.0/24".parse().unwrap()];
    let resolution = super::resolve(&fabric, &[missing("n1", &records)], &records);
    assert_eq!((names(&resolution), labels(&resolution)), (vec![], vec![("n1", "CIDRTaken")]));
    fabric.ranges.pods = vec!["10.245.0.0/16".parse().unwrap()];
    let resolution = super::resolve(&fabric, &[missing("n1", &records)], &records);
    assert_eq!((names(&resolution), labels(&resolution)), (vec![], vec![("n1", "CIDROutside")]));
}

#[test]
fn a_node_made_anew_starts_anew() {
    let mut anew = node(1);
    anew.uid = "uid-new".into();
    anew.confirmed.as_mut().unwrap().uid = "uid-new".into();
    set(&mut anew, PUBLIC_KEY, key(11));
    set(&mut anew, KEY_EPOCH, 1);
    let resolution = resolve(&fabric(), &[anew], &accepted(&[node(1)]));
    assert_eq!((names(&resolution), labels(&resolution)), (vec!["n1"], vec![]));
    assert_eq!(resolution.records.nodes["n1"].epoch, 1);
}

#[test]
fn a_refused_node_keeps_its_claims() {
    let records = accepted(&[node(1)]);
    let mut broken = node(1);
    set(&mut broken, ENDPOINTS, "nonsense");
    let mut thief = node(2);
    set(&mut thief, PUBLIC_KEY, key(1));
    let resolution = resolve(&fabric(), &[broken, thief], &records);
    assert_eq!(labels(&resolution), [("n1", "MalformedAnnotation"), ("n2", "KeyTaken")]);
    assert_eq!(resolution.records, claims_of(&records));
}

#[test]
fn endpoints_are_reachable_ones_best_first() {
    let mut far = node(1);
    set(&mut far, LOCATION, "far");
    set(&mut far, ENDPOINTS, "10.0.0.1:1,[2001:db8::1]:1,[fd12::1]:1,198.51.100.1:1");
    let endpoints = |fabric: &Fabric| {
        let resolution = resolve(fabric, &[far.clone()], &Records::default());
        resolution.peers[0].endpoints.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut fabric = fabric();
    assert_eq!(endpoints(&fabric), ["[2001:db8::1]:1", "198.51.100.1:1", "10.0.0.1:1", "[fd12::1]:1"]);
    fabric.ipv6 = false;
    assert_eq!(endpoints(&fabric), ["198.51.100.1:1", "10.0.0.1:1"]);
    fabric.own.location = Some("far".into());
    assert_eq!(endpoints(&fabric), ["10.0.0.1:1", "198.51.100.1:1"]);
}

#[test]
fn a_lost_key_store_is_noticed() {
    let published = annotation::parse(&node(1).annotations).unwrap().unwrap();
    let keys = |seed| Keys { public_key: key(seed), lanes: vec![] };
    assert_eq!(superseded(&published, 5, &keys(1)), None);
    assert_eq!(superseded(&published, 6, &keys(2)), None);
    assert_eq!(superseded(&published, 5, &keys(2)), Some(5));
    assert_eq!(superseded(&published, 1, &keys(1)), Some(5));
}

#[test]
fn endpoints_that_others_would_refuse_are_known() {
    let ranges = fabric().ranges;
    for (endpoint, problem) in [
        ("192.0.2.1:51830", None),
        ("192.0.2.1:0", Some("no port")),
        ("127.0.0.1:1", Some("loopback")),
        ("10.244.0.1:1", Some("pod or Service")),
    ] {
        assert_eq!(endpoint_problem(&ranges, endpoint.parse().unwrap()), problem, "{endpoint}");
    }
}

/// Nodes that all claim one key and one prefix take no quadratic time either: sixteen times as many take some twenty times as
/// long, not 256 times.
#[test]
fn many_nodes_take_no_quadratic_time() {
    let many = |n: u32, shared: bool| {
        let mut node = node(1);
        let (third, fourth) = (n / 8, n % 8 * 32);
        (node.name, node.uid) = (format!("n{n}"), format!("uid-{n}"));
        node.confirmed.as_mut().unwrap().uid.clone_from(&node.uid);
        own_address(&mut node, &format!("198.18.{}.{}", n / 256, n % 256));
        if !shared {
            let mut seed = [7; 32];
            seed[1..5].copy_from_slice(&n.to_be_bytes());
            set(&mut node, PUBLIC_KEY, selvedge_keys::PrivateKey::from_bytes(seed).public_key());
            own_cidr(&mut node, &format!("10.244.{third}.{fourth}/27"));
        }
        node
    };
    let mut fabric = fabric();
    fabric.own.pod_cidrs.clear();
    for shared in [false, true] {
        let fastest = |count: usize| {
            let nodes: Vec<_> = (0..u32::try_from(count).unwrap()).map(|n| many(n, shared)).collect();
            let times = (0..5).map(|_| {
                let started = std::time::Instant::now();
                let resolution = resolve(&fabric, &nodes, &Records::default());
                let took = started.elapsed();
                assert_eq!(resolution.peers.len(), if shared { 0 } else { count });
                assert_eq!(resolution.refusals.len(), if shared { count } else { 0 });
                took
            });
            times.min().unwrap()
        };
        let (some, many) = (fastest(125), fastest(2000));
        println!("shared claims {shared}: 125 nodes {some:?}, 2000 nodes {many:?}");
        assert!(many < some * 100, "shared claims {shared}: 125 nodes {some:?}, 2000 nodes {many:?}");
    }
}
