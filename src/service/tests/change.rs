//! Updates of the kernel's table.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::kernel::nft::{Table, Update};
use crate::service::balancer::Balancer;
use crate::service::object::TrafficPolicy;
use crate::service::report::Report;
use crate::service::table::Structure;

fn empty() -> Table {
    Structure::default().table()
}

fn filled(balancer: &Balancer) -> Table {
    let mut table = empty();
    balancer.fill(&mut table);
    table
}

/// How many elements are deleted and added.
fn size(update: &Update, before: &Table) -> usize {
    let mut after = before.clone();
    update.clone().apply_to(&mut after);
    let elements = |table: &Table| {
        let of = |(name, set): (&String, &crate::kernel::nft::Set)| {
            set.elements
                .iter()
                .map(|(key, element)| format!("{name} {key:?} {element:?}"))
                .collect::<Vec<_>>()
        };
        table.sets.iter().flat_map(of).collect::<BTreeSet<String>>()
    };
    elements(before).symmetric_difference(&elements(&after)).count()
}

#[test]
fn one_endpoint_among_many_is_a_few_elements() {
    let mut balancer = Balancer::default();
    balancer.set_node(node());
    let some = |numbers: std::ops::Range<u32>| {
        let at =
            |number: u32| endpoint(&std::net::Ipv4Addr::from_bits(0x0af4_0000 + number).to_string(), "there");
        Some(Arc::new(slice(numbers.map(at).collect())))
    };
    balancer.set_service(&name("web"), Some(Arc::new(service("10.96.0.1"))));
    balancer.set_slice(&name("web"), "web-1", some(0..1000));
    balancer.update();
    // Another count of the same class, and one of the next; an endpoint more, and the first gone.
    for (numbers, most) in [(0..1001, 1), (1..1001, 3), (1..1025, 25), (1..1026, 3)] {
        let before = filled(&balancer);
        balancer.set_slice(&name("web"), "web-1", some(numbers.clone()));
        let update = balancer.update();
        assert!(size(&update, &before) <= most, "{numbers:?}: {}", size(&update, &before));
    }
}

#[test]
fn an_address_that_two_services_claim_goes_to_one_and_on_to_the_other() {
    let mut balancer = Balancer::default();
    balancer.set_node(node());
    let with_external = |cluster_ip: &str| {
        Some(Arc::new(Service { external_ips: vec![address("192.0.2.7")], ..service(cluster_ip) }))
    };
    for (service, cluster_ip, backend) in [("b", "10.96.0.2", "10.244.0.2"), ("a", "10.96.0.1", "10.244.0.1")]
    {
        balancer.set_service(&name(service), with_external(cluster_ip));
        balancer.set_slice(&name(service), "slice", Some(Arc::new(slice(vec![endpoint(backend, "there")]))));
        balancer.update();
    }
    let conflict = |balancer: &Balancer| {
        let all = balancer.conflicts().map(|it| format!("{}: {} for {}", it.target, it.owner, it.refused));
        all.collect::<Vec<_>>()
    };
    assert_eq!(conflict(&balancer), ["192.0.2.7:80/TCP: default/a for default/b"]);
    let before = filled(&balancer);
    balancer.set_service(&name("a"), None);
    let mut after = before;
    balancer.update().apply_to(&mut after);
    assert_eq!(after, filled(&balancer));
    assert!(conflict(&balancer).is_empty());
    assert_eq!(after.sets["outside4"].elements.len(), 1, "the other one serves it now");
}

/// Until nothing is left to report.
#[test]
fn what_services_do_not_get_is_reported() {
    let mut balancer = Balancer::default();
    let reserved = Reserved {
        ports: [(Protocol::Tcp, 30_080)].into(),
        own: [address("192.0.2.1")].into(),
        others: [address("192.0.2.2")].into(),
        ..Reserved::default()
    };
    balancer.set_node(Node { reserved: Arc::new(reserved), ..node() });
    let with = |cluster_ip: &str, externals: &[&str], node_port| {
        let mut service = service(cluster_ip);
        service.uid = format!("uid of {cluster_ip}");
        service.external_ips = externals.iter().map(|at| address(at)).collect();
        service.ports[0].node_port = node_port;
        Some(Arc::new(service))
    };
    let reports = |balancer: &mut Balancer| {
        balancer.update();
        let reports = balancer.take_reports();
        let text = |it: Report| format!("{} {} {}: {}", it.service, it.uid, it.reason.label(), it.note);
        reports.map(|reports| reports.into_iter().map(text).collect::<Vec<_>>())
    };
    balancer.set_service(&name("a"), with("10.96.0.1", &["198.51.100.1"], None));
    assert_eq!(reports(&mut balancer), None);
    balancer.set_service(&name("b"), with("10.96.0.2", &["198.51.100.1", "127.0.0.1"], Some(30_080)));
    let withheld = "default/b uid of 10.96.0.2 AddressWithheld: no Service gets 127.0.0.1:80/TCP (loopback, \
                    link-local, multicast or unspecified), node port 30080/TCP (a port of the nodes themselves)";
    let taken = "default/b uid of 10.96.0.2 AddressTaken: another Service has 198.51.100.1:80/TCP";
    assert_eq!(reports(&mut balancer).unwrap(), [withheld, taken]);
    assert_eq!(reports(&mut balancer), None, "nothing new");
    balancer.take_over();
    assert_eq!(reports(&mut balancer).unwrap(), [withheld, taken], "another proxy served meanwhile");
    balancer.set_service(&name("a"), None);
    assert_eq!(reports(&mut balancer).unwrap(), [withheld]);
    balancer.set_service(&name("b"), None);
    assert_eq!(reports(&mut balancer), Some(vec![]));
}

#[test]
fn services_without_endpoint_here_are_counted_by_policy() {
    let mut balancer = Balancer::default();
    balancer.set_node(node());
    let mut local = service("10.96.0.1");
    local.ports[0].node_port = Some(30_080);
    (local.internal_policy, local.external_policy) = (TrafficPolicy::Local, TrafficPolicy::Local);
    let counts = |balancer: &mut Balancer, local: &Service, endpoints: Vec<Endpoint>| {
        balancer.set_service(&name("web"), Some(Arc::new(local.clone())));
        balancer.set_slice(&name("web"), "a", Some(Arc::new(slice(endpoints))));
        balancer.update();
        balancer.no_local_endpoints()
    };
    let (here, there) = (|| endpoint("10.244.0.1", "here"), || endpoint("10.244.0.2", "there"));
    assert_eq!(counts(&mut balancer, &local, vec![there()]), [1, 1]);
    assert_eq!(counts(&mut balancer, &local, vec![here(), there()]), [0, 0]);
    assert_eq!(counts(&mut balancer, &local, vec![]), [0, 0], "there are none elsewhere either");
    local.internal_policy = TrafficPolicy::Cluster;
    assert_eq!(counts(&mut balancer, &local, vec![there()]), [0, 1]);
    (local.internal_policy, local.ports[0].node_port) = (TrafficPolicy::Local, None);
    assert_eq!(counts(&mut balancer, &local, vec![there()]), [1, 0], "nothing comes from outside");
    balancer.set_service(&name("web"), None);
    balancer.update();
    assert_eq!(balancer.no_local_endpoints(), [0, 0]);
}

/// Load balancers are told how many ready endpoints are here, each counted once.
#[test]
fn health_checks_count_ready_endpoints_of_this_node() {
    let mut balancer = Balancer::default();
    balancer.set_node(node());
    let mut checked = service("10.96.0.1");
    checked.health_check_port = Some(31_000);
    balancer.set_service(&name("web"), Some(Arc::new(checked)));
    let both = [endpoint("10.244.0.1", "here"), endpoint("fd00::1", "here")];
    let others = [terminating("10.244.0.2", "here", true), endpoint("10.244.0.3", "there")];
    let all = both.into_iter().chain(others).collect();
    balancer.set_slice(&name("web"), "a", Some(Arc::new(slice(all))));
    balancer.update();
    let counts = |balancer: &mut Balancer| {
        let checks = balancer.take_checks();
        checks
            .map(|checks| checks.into_iter().map(|(port, it)| (port, it.local_endpoints)).collect::<Vec<_>>())
    };
    assert_eq!(counts(&mut balancer), Some(vec![(31_000, 1)]));
    assert_eq!(counts(&mut balancer), None);
    balancer.set_service(&name("web"), None);
    balancer.update();
    assert_eq!(counts(&mut balancer), Some(vec![]));
}

/// Whoever may write Services may not take over a node: neither one that is there nor one that joins.
#[test]
fn a_nodes_own_ports_are_no_services() {
    let mut balancer = Balancer::default();
    let with = |others: &[&str]| {
        let reserved = Reserved {
            ports: [(Protocol::Tcp, 80)].into(),
            own: [address("192.0.2.1")].into(),
            others: others.iter().map(|at| address(at)).collect(),
            ..Reserved::default()
        };
        Node { reserved: Arc::new(reserved), ..node() }
    };
    balancer.set_node(with(&[]));
    let external_ips = ["192.0.2.1", "192.0.2.2", "198.51.100.1"].map(address).to_vec();
    balancer.set_service(&name("web"), Some(Arc::new(Service { external_ips, ..service("10.96.0.1") })));
    balancer.set_slice(&name("web"), "a", Some(Arc::new(slice(vec![endpoint("10.244.0.1", "there")]))));
    let mut kernel = empty();
    let refused = |balancer: &mut Balancer, kernel: &mut Table| {
        balancer.update().apply_to(kernel);
        assert_eq!(*kernel, filled(balancer));
        let refused = balancer.take_refused().into_iter();
        refused.map(|it| format!("{} {}: {}", it.service, it.target, it.why)).collect::<Vec<_>>()
    };
    let node = "a port of the nodes themselves";
    assert_eq!(refused(&mut balancer, &mut kernel), [format!("default/web 192.0.2.1:80/TCP: {node}")]);
    assert_eq!(kernel.sets["inside4"].elements.len(), 3);
    balancer.set_node(with(&["192.0.2.2"]));
    assert_eq!(refused(&mut balancer, &mut kernel), [format!("default/web 192.0.2.2:80/TCP: {node}")]);
    assert_eq!(kernel.sets["inside4"].elements.len(), 2);
}

/// A change of what there is.
#[derive(Debug, Clone)]
enum Step {
    Service(u8, Option<Service>),
    Slice(u8, u8, Option<Slice>),
    Node(Node),
}

fn some_service() -> impl Strategy<Value = Service> {
    let policy = || {
        prop::bool::ANY.prop_map(|local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster })
    };
    let parts = (1..4_u8, prop::bool::ANY, prop::option::of(0..2_u16), prop::collection::vec(0..3_u8, 0..2));
    const RANGES: [&str; 5] =
        ["192.0.2.0/24", "198.51.100.0/24", "198.51.100.128/25", "2001:db8::/32", "::/0"];
    let ranges = prop::collection::vec(prop::sample::select(&RANGES), 0..3);
    let extras = (prop::option::of(1..3_u64), prop::option::of(ranges));
    (parts, policy(), policy(), extras).prop_map(
        |((ip, both, node_port, external), internal_policy, external_policy, (affinity, ranges))| {
            let mut service = Service {
                internal_policy,
                external_policy,
                affinity: affinity.map(Duration::from_secs),
                source_ranges: ranges
                    .map(|ranges| ranges.into_iter().map(|range| range.parse().unwrap()).collect()),
                ..service(&format!("10.96.0.{ip}"))
            };
            if both {
                service.cluster_ips.push(address(&format!("fd96::{ip}")));
            }
            service.ports[0].node_port = node_port.map(|port| 30_000 + port);
            // One of the node's own, and one that is a cluster IP, too.
            let addresses = ["192.0.2.1", "192.0.2.9", "10.96.0.1"];
            let external: Vec<IpAddr> =
                external.iter().map(|at| address(addresses[usize::from(*at)])).collect();
            Service { external_ips: external.clone(), ingress_ips: external, ..service }
        },
    )
}

fn some_slice() -> impl Strategy<Value = Slice> {
    let one = (0..5_u8, 0..4_u8, prop::bool::ANY, prop::bool::ANY).prop_map(|(number, state, local, v6)| {
        let at = if v6 { format!("fd00::{number}") } else { format!("10.244.0.{number}") };
        let node = if local { "here" } else { "there" };
        match state {
            0 => terminating(&at, node, true),
            1 => terminating(&at, node, false),
            _ => endpoint(&at, node),
        }
    });
    prop::collection::vec(one, 0..6).prop_map(slice)
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_u8, prop::option::weighted(0.8, some_service())).prop_map(|(at, now)| Step::Service(at, now)),
        4 => (0..3_u8, 0..2_u8, prop::option::weighted(0.8, some_slice()))
            .prop_map(|(at, number, now)| Step::Slice(at, number, now)),
        1 => prop::collection::vec(0..3_u8, 0..3).prop_map(|addresses| Step::Node(Node {
            node_port_addresses: addresses.iter().map(|at| address(&format!("192.0.2.{at}"))).collect(),
            ..node()
        })),
    ]
}

fn take(balancer: &mut Balancer, step: Step) {
    let named = |at: u8| name(&format!("service{at}"));
    match step {
        Step::Service(at, now) => balancer.set_service(&named(at), now.map(Arc::new)),
        Step::Slice(at, number, now) => {
            balancer.set_slice(&named(at), &number.to_string(), now.map(Arc::new));
        }
        Step::Node(node) => balancer.set_node(node),
    }
}

/// The same with addresses that no other Service has: what the kernel has does not say whose a target is.
fn apart(step: Step) -> Step {
    let Step::Service(at, Some(service)) = step else { return step };
    let mut service = Service {
        cluster_ips: vec![address(&format!("10.96.0.{at}"))],
        external_ips: Vec::new(),
        ingress_ips: vec![address(&format!("198.51.100.{at}"))],
        ..service
    };
    service.ports[0].node_port = Some(30_000 + u16::from(at));
    Step::Service(at, Some(service))
}

/// The keys of all elements: what is served, by how many backends.
fn keys(table: &Table) -> Vec<String> {
    // A number does not say which backend it is of.
    let all = table
        .sets
        .iter()
        .filter(|(name, _)| !name.contains("numbers"))
        .flat_map(|(name, set)| set.elements.keys().map(move |key| format!("{name} {key:?}")));
    all.collect()
}

proptest! {
    /// The kernel's table follows by updates alone, and has what a balancer that starts now would write, but for the order of
    /// backends.
    #[test]
    fn updates_add_up(steps in prop::collection::vec((some_step(), prop::bool::ANY), 1..40)) {
        let mut balancer = Balancer::default();
        let mut kernel = empty();
        for (step, updated) in &steps {
            take(&mut balancer, step.clone());
            if *updated {
                balancer.update().apply_to(&mut kernel);
                prop_assert_eq!(&kernel, &filled(&balancer));
            }
        }
        balancer.update().apply_to(&mut kernel);
        prop_assert_eq!(&kernel, &filled(&balancer));
        prop_assert!(balancer.update().is_empty());
        let mut fresh = Balancer::default();
        steps.into_iter().for_each(|(step, _)| take(&mut fresh, step));
        fresh.update();
        prop_assert_eq!(keys(&kernel), keys(&filled(&fresh)));
    }

    /// As the kernel refuses what is not exactly so: what is deleted is there, and what is added is not.
    #[test]
    fn updates_assume_what_is_there(steps in prop::collection::vec(some_step(), 1..40)) {
        let mut balancer = Balancer::default();
        let mut kernel = empty();
        for step in steps {
            take(&mut balancer, step);
            let update = balancer.update();
            prop_assert!(update.fits(&kernel), "{update:?}");
            update.apply_to(&mut kernel);
        }
    }

    /// One that starts beside the table of an earlier one finds it right, order and numbers included.
    #[test]
    fn what_an_earlier_agent_has_left_stays(steps in prop::collection::vec((some_step(), prop::bool::ANY), 1..40)) {
        let mut balancer = Balancer::default();
        let mut steps_taken = Vec::new();
        for (step, updated) in steps {
            let step = apart(step);
            take(&mut balancer, step.clone());
            steps_taken.push(step);
            if updated {
                balancer.update();
            }
        }
        balancer.update();
        let kernel = filled(&balancer);
        let mut next = Balancer::default();
        next.keep(&kernel);
        steps_taken.into_iter().for_each(|step| take(&mut next, step));
        next.update();
        prop_assert_eq!(kernel, filled(&next));
    }
}
