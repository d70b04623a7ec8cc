//! An agent that finds the table of an earlier version.

use std::collections::BTreeSet;
use std::time::Duration;

use super::kernel::{add_sticky, add_web, ask, ask_from, balancer, lay, serve, set_backends, wanted};
use super::*;
use crate::kernel::nft::{
    Chain, Connection, End, Family, Field, Ip, Rule, Selector, SetOperation, Table, Type,
};
use crate::service::balancer::Balancer;
use crate::service::class::Class;
use crate::service::table::TABLE;
use crate::service::target::selectors;

const V4: [&str; 3] = ["10.244.1.2", "10.244.1.3", "10.244.1.4"];
const V6: [&str; 3] = ["fd00::2", "fd00::3", "fd00::4"];
const TIMEOUT: Duration = Duration::from_secs(600);

/// As agents wrote the table in which each rule that draws an index looks it up, too: keys have a number for the priority.
fn earlier(mut table: Table, affine: &[(Ip, usize)]) -> Table {
    for (name, set) in &mut table.sets {
        if ["cluster", "local", "slots", "local-slots"]
            .iter()
            .any(|it| name.trim_end_matches(['4', '6']) == *it)
        {
            let Type(fields) = &mut set.key;
            *fields.last_mut().unwrap() = Field::Number;
        }
    }
    for chain in ["cluster", "local", "slots", "numbers", "numbered"] {
        table.chains.remove(chain);
        table.chains.remove(&format!("local-{chain}"));
    }
    let draw = |ip: Ip, map: &str, size: u32| {
        let fields = [&selectors(ip)[..], &[Selector::Random(size)]].concat();
        Rule::new().ip(ip).map(&fields, &format!("{map}{}", ip.digit()))
    };
    for (class, map) in Class::all().flat_map(|class| ["cluster", "local"].map(|map| (class, map))) {
        let sizes = [class.size, class.size, class.size, class.size, class.least, 1];
        let rules =
            Ip::BOTH.into_iter().flat_map(|ip| sizes.map(|size| draw(ip, map, size).dnat_to_mapped(ip)));
        let rules = rules.chain([Rule::new().goto("rejected")]).collect();
        table.chain(format!("{map}-{}", class.size), Chain::regular(rules));
    }
    for ((ip, count), scope) in affine.iter().flat_map(|it| ["", "local-"].map(|scope| (it, scope))) {
        let (ip, count) = (*ip, u32::try_from(*count).unwrap());
        let port = format!("{}-default/sticky/tcp/80", ip.digit());
        let (chain, clients) = (format!("{scope}affinity{port}"), format!("clients{port}"));
        let client = [Selector::Address(ip, End::Source)];
        let change = |rule: Rule, operation, timeout| {
            rule.change_map(operation, &clients, &client, &[Selector::Priority], timeout)
        };
        let recall = |rule: Rule| rule.map(&client, &clients).set_priority();
        let numbered = [&selectors(ip)[..], &[Selector::Priority]].concat();
        let serve =
            |rule: Rule| rule.map(&numbered, &format!("{scope}numbers{}", ip.digit())).dnat_to_mapped(ip);
        let slot = |size| draw(ip, &format!("{scope}slots"), size).set_priority();
        let rules = vec![
            change(recall(Rule::new().ip(ip)), SetOperation::Update, Some(TIMEOUT)),
            serve(Rule::new().ip(ip)),
            change(Rule::new().ip(ip), SetOperation::Delete, None),
            serve(recall(change(slot(count), SetOperation::Add, Some(TIMEOUT)))),
            serve(slot(count).count("affinity-full")),
            serve(slot(1)),
            Rule::new().goto("rejected"),
        ];
        assert!(table.chains.contains_key(&chain), "{chain}");
        table.chain(chain, Chain::regular(rules));
    }
    table
}

/// Indices, numbers and remembered clients stay, and nobody is refused meanwhile.
#[test]
fn the_table_of_an_earlier_version_is_taken_over() {
    selvedge_lab::isolated!(|| {
        let clients: Vec<String> = (1..=30).map(|number| format!("172.16.0.{number}")).collect();
        let clients6: Vec<String> = (1..=30).map(|number| format!("fd16::{number}")).collect();
        let all: Vec<&str> =
            clients.iter().chain(&clients6).map(String::as_str).chain(V4).chain(V6).collect();
        lay(&all);
        serve(&[&V4[..], &V6].concat());
        // The last ones come first: an order that a new agent would not make.
        let mut before = balancer(&V4[1..], &V6[2..]);
        add_sticky(&mut before, &V4[2..], &V6[1..], TIMEOUT, &[]);
        before.update();
        set_backends(&mut before, "web", &V4, &V6);
        set_backends(&mut before, "sticky", &V4, &V6);
        before.update();
        let mut connection = Connection::open().unwrap();
        let earlier = earlier(wanted(&before), &[(Ip::V4, V4.len()), (Ip::V6, V6.len())]);
        connection.apply(std::slice::from_ref(&earlier)).unwrap();
        assert_eq!(connection.read(Family::Inet, TABLE).unwrap().unwrap().table, earlier);
        let answers = || -> Vec<String> {
            let v4 = clients.iter().map(|from| ask_from(from, "10.96.0.2:80").unwrap());
            v4.chain(clients6.iter().map(|from| ask_from(from, "[fd96::2]:80").unwrap())).collect()
        };
        let first = answers();
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), V4.len() + V6.len());
        let (asked, refused) = std::thread::scope(|scope| {
            let upgrade = scope.spawn(|| upgrade(&mut connection));
            let (mut asked, mut refused) = (0, 0);
            while !upgrade.is_finished() {
                for to in ["10.96.0.1:80", "[fd96::1]:80"] {
                    asked += 1;
                    refused += usize::from(ask(to.parse().unwrap()).is_err());
                }
            }
            upgrade.join().unwrap();
            (asked, refused)
        });
        println!("{refused} of {asked} connections refused");
        // One packet may be between two rules when the tables change places.
        assert!(refused <= 1, "{refused} of {asked}");
        assert_eq!(answers(), first);
    });
}

/// What an agent does when it starts.
fn upgrade(connection: &mut Connection) {
    let kernel = connection.read(Family::Inet, TABLE).unwrap().unwrap().table;
    let mut next = Balancer::default();
    next.keep(&kernel);
    next.set_node(node());
    add_sticky(&mut next, &V4, &V6, TIMEOUT, &[]);
    // The first update is the last one that keeps.
    add_web(&mut next, &V4, &V6);
    let wanted = wanted(&next);
    assert_eq!(elements(&wanted), elements(&kernel));
    let sent = connection.sent().batches;
    connection.apply(std::slice::from_ref(&wanted)).unwrap();
    assert_eq!(connection.sent().batches, sent + 1, "one transaction");
    assert_eq!(connection.read(Family::Inet, TABLE).unwrap().unwrap().table, wanted);
}

/// What is served by whom.
fn elements(table: &Table) -> Vec<String> {
    let all = table.sets.iter().flat_map(|(name, set)| {
        set.elements.iter().map(move |(key, element)| format!("{name} {key:?} {element:?}"))
    });
    all.collect()
}
