//! Timeouts, and sets that packets fill.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;

const LONG: Duration = Duration::from_secs(10_800);
const SHORT: Duration = Duration::from_millis(400);
const PORT: [Selector; 1] = [Selector::Port(End::Destination)];
const UDP: u8 = 17;

/// A table whose chain sees UDP datagrams that this host sends, and counts behind each of `rules` in a counter of its
/// number.
fn table(set: Set, rules: Vec<Rule>) -> Table {
    let mut table = Table::new(Family::Inet, "dynamic");
    let rules = rules.into_iter().enumerate().map(|(number, rule)| {
        table.counter(number.to_string());
        Rule { expressions: [Rule::new().protocol(UDP).expressions, rule.expressions].concat(), ..rule }
            .count(number.to_string())
    });
    let rules = rules.collect();
    table.set("set", set);
    table.chain("out", Chain::base(ChainKind::Filter, Hook::Output, 0, rules));
    table
}

fn elements(table: &Table) -> Vec<(Vec<u8>, Data)> {
    let elements = Connection::open().unwrap().elements(table.family, &table.name, "set").unwrap();
    elements.into_iter().map(|(key, element)| (key.first().to_vec(), element.data)).collect()
}

fn port(number: u16) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// A rule that changes the element of the destination port, in a set without values.
fn change(operation: SetOperation) -> Rule {
    Rule::new().change_set(operation, "set", &PORT, None)
}

#[test]
fn timeouts_are_read_back_and_expire() {
    selvedge_lab::isolated!(|| {
        let mut own = Set::new(Field::Mark).expiring(Expiry::PerElement);
        own.insert([1; 4]).insert_data([2; 4], Element::from(Data::None).expiring(LONG));
        let mut ranges = Set::prefixes(Ip::V4, &nets(&["10.0.0.0/8"])).expiring(Expiry::After(LONG));
        ranges.insert_data(nets(&["11.0.0.0/8"])[0], Element::from(Data::None).expiring(LONG * 2));
        let mut both = Set::map([Field::Ipv4, Field::Port], DataType::Verdict).of_ranges();
        both = both.expiring(Expiry::After(LONG));
        let element = Element::from(Data::Verdict(Verdict::Drop)).expiring(SHORT);
        let key = Concat::new().prefix("10.0.0.0/8".parse().unwrap()).ports(1..=9);
        both.insert_data(key, element);
        let mut table = Table::new(Family::Inet, "timeouts");
        table.set("own", own).set("ranges", ranges).set("both", both);
        apply(std::slice::from_ref(&table)).unwrap();
        assert_eq!(state(&table).table, table);
        assert!(apply(std::slice::from_ref(&table)).unwrap().is_empty());
        wait_for("an element to expire", || state(&table).table.sets["both"].elements.is_empty());
        assert_eq!(
            apply(std::slice::from_ref(&table)).unwrap().0,
            ["add elements to set both in table inet timeouts"]
        );
        assert_eq!(state(&table).table, table);
    });
}

#[test]
fn what_packets_add_is_not_taken_away() {
    selvedge_lab::isolated!(|| {
        let set = Set::map(Field::Port, DataType::Value([Field::Ipv4, Field::Port].into()));
        let set = set.expiring(Expiry::After(LONG)).dynamic(1000);
        let value = [Selector::Address(Ip::V4, End::Destination), Selector::Port(End::Destination)];
        let add =
            |operation, timeout| Rule::new().ip(Ip::V4).change_map(operation, "set", &PORT, &value, timeout);
        let rules = vec![add(SetOperation::Add, None), add(SetOperation::Update, Some(LONG * 2))];
        let mut table = table(set, rules);
        apply(std::slice::from_ref(&table)).unwrap();
        send("127.0.0.7:1000");
        send("127.0.0.8:2000");
        let value = |address: u8, port: u16| {
            Data::from(Concat::new().address([127, 0, 0, address].into()).port(port))
        };
        let expected = [(port(1000), value(7, 1000)), (port(2000), value(8, 2000))];
        assert_eq!(elements(&table), expected);
        assert_eq!(state(&table).table, table, "reads back as wanted, whatever packets have added");
        assert!(apply(std::slice::from_ref(&table)).unwrap().is_empty());
        table.chain("more", Chain::regular(vec![add(SetOperation::Delete, None)]));
        assert!(!apply(std::slice::from_ref(&table)).unwrap().is_empty());
        assert_eq!(state(&table).table, table);
        assert_eq!(elements(&table), expected);
        // Only another definition makes it a new set.
        table.sets.get_mut("set").unwrap().size = Some(500);
        apply(std::slice::from_ref(&table)).unwrap();
        assert_eq!((elements(&table), state(&table).table), (vec![], table));
    });
}

#[test]
fn an_update_renews_the_timeout_and_keeps_the_value() {
    selvedge_lab::isolated!(|| {
        let set = Set::map(Field::Port, DataType::Value(Field::Port.into()));
        let set = set.expiring(Expiry::After(SHORT)).dynamic(10);
        let value = [Selector::Port(End::Source)];
        let rule = Rule::new().change_map(SetOperation::Update, "set", &PORT, &value, None);
        let table = table(set, vec![rule]);
        apply(std::slice::from_ref(&table)).unwrap();
        let from = |client: &UdpSocket| client.send_to(b"x", "127.0.0.1:1000").unwrap();
        // False where this process has had to wait for so long that the element may have expired.
        let renew = || {
            let first = UdpSocket::bind("127.0.0.1:0").unwrap();
            from(&first);
            let expected = [(port(1000), Data::Value(port(first.local_addr().unwrap().port())))];
            let start = Instant::now();
            let mut renewed = start;
            while start.elapsed() < SHORT * 3 {
                renewed = Instant::now();
                from(&UdpSocket::bind("127.0.0.1:0").unwrap());
                let found = elements(&table);
                if renewed.elapsed() > SHORT / 2 {
                    wait_for("the element to expire", || elements(&table).is_empty());
                    return false;
                }
                assert_eq!(found, expected);
            }
            wait_for("the element to expire", || elements(&table).is_empty());
            assert!(renewed.elapsed() > SHORT - Duration::from_millis(50));
            true
        };
        assert!((0..20).any(|_| renew()));
    });
}

#[test]
fn deleting_first_changes_the_value_too() {
    selvedge_lab::isolated!(|| {
        let set = Set::map(Field::Port, DataType::Value(Field::Port.into()))
            .expiring(Expiry::After(LONG))
            .dynamic(10);
        let change =
            |operation| Rule::new().change_map(operation, "set", &PORT, &[Selector::Port(End::Source)], None);
        let table = table(set, vec![change(SetOperation::Delete), change(SetOperation::Update)]);
        apply(std::slice::from_ref(&table)).unwrap();
        for round in 0..3 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", "127.0.0.1:1000").unwrap();
            assert_eq!(
                elements(&table),
                [(port(1000), Data::Value(port(client.local_addr().unwrap().port())))]
            );
            // The rule goes on also without an element to delete.
            assert_eq!((counted(&table, "0"), counted(&table, "1")), (round + 1, round + 1));
        }
    });
}

#[test]
fn a_full_set_ends_the_rule() {
    selvedge_lab::isolated!(|| {
        let set = Set::new(Field::Port).expiring(Expiry::After(LONG)).dynamic(2);
        let table = table(set, vec![change(SetOperation::Update), change(SetOperation::Add)]);
        apply(std::slice::from_ref(&table)).unwrap();
        (1000..1005).for_each(|port| send(&format!("127.0.0.1:{port}")));
        send("127.0.0.1:1000");
        assert_eq!((elements(&table).len(), counted(&table, "0"), counted(&table, "1")), (2, 3, 3));
    });
}
