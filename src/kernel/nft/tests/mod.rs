//! Tables against the kernel.

mod dynamic;
mod listing;
mod ranges;
mod update;

use std::collections::BTreeSet;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::message::{DORMANT, NEW_TABLE, TABLE, TABLE_FLAGS};
use super::socket::Socket;
use super::transaction::Transaction;
use super::*;

/// Sends one UDP datagram.
fn send(to: &str) {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    std::net::UdpSocket::bind(any).unwrap().send_to(b"x", to).unwrap();
}

/// Packets that a named counter has counted.
fn counted(table: &Table, counter: &str) -> u64 {
    counters(table.family, &table.name).unwrap()[counter].packets
}

/// Waits until `condition` holds.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited 20 s for {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A table with one of everything that the model knows.
fn everything() -> Table {
    let mut table = Table::new(Family::Inet, "everything");
    table.counter("first").counter("second");
    for ip in Ip::BOTH {
        table.set(
            format!("nets{}", ip.digit()),
            Set::prefixes(ip, &nets(&["10.0.0.0/8", "0.0.0.0/32", "fd00::/8", "::/64"])),
        );
    }
    let mut names = Set::new(Field::IfName);
    names.insert(padded("eth0")).insert(padded("eth1"));
    table.set("names", names);
    let service = Type(vec![Field::Ipv4, Field::Protocol, Field::Port]);
    let mut verdicts = Set::map(service.clone(), DataType::Verdict);
    let key = [10, 96, 0, 1, 6, 0, 0, 0, 1, 187, 0, 0];
    verdicts.insert_data(key, Data::Verdict(Verdict::Goto("regular".into())));
    table.set("verdicts", verdicts);
    let mut numbers = Set::map(service, DataType::Value(Field::Mark.into()));
    numbers.insert_data(key, Data::Value(7_u32.to_ne_bytes().to_vec()));
    table.set("numbers", numbers);
    table.chain("regular", Chain::regular(vec![Rule::new().end().comment("nothing to see")]));
    table.chain("filter", Chain::base(ChainKind::Filter, Hook::Prerouting, -300, filter_rules()));
    let nat = vec![
        Rule::new().oif_name("eth0").masquerade(NAT_RANDOM_FULLY),
        Rule::new().masquerade(0),
        Rule::new().ip(Ip::V4).snat("192.0.2.1".parse().unwrap(), 0),
        Rule::new().ip(Ip::V6).snat("2001:db8::1".parse().unwrap(), NAT_RANDOM_FULLY),
    ];
    table.chain("source", Chain::base(ChainKind::Nat, Hook::Postrouting, 100, nat));
    let nat = vec![
        Rule::new().ip(Ip::V4).protocol(6).dnat("192.0.2.1".parse().unwrap(), Some(80)),
        Rule::new().ip(Ip::V6).protocol(6).dnat("2001:db8::1".parse().unwrap(), Some(80)),
    ];
    table.chain("destination", Chain::base(ChainKind::Nat, Hook::Prerouting, -100, nat));
    let answer = Rule::new().protocol(6).with(Expression::Reject { kind: Reject::TcpReset, code: 0 });
    let unreachable = Rule::new().with(Expression::Reject { kind: Reject::Icmpx, code: 1 });
    let mut input = Chain::base(ChainKind::Filter, Hook::Input, 0, vec![answer, unreachable]);
    input.base.as_mut().unwrap().policy = Policy::Drop;
    table.chain("input", input);
    table
}

fn filter_rules() -> Vec<Rule> {
    let first = Register::FIRST;
    let number = Expression::Numgen { kind: Numgen::Random, modulus: 3, offset: 1, to: Register(1) };
    let fib = Expression::Fib { result: FibResult::AddressType, flags: 2, to: first };
    vec![
        Rule::new().iif(1).accept(),
        Rule::new().iif_group(51830).accept(),
        Rule::new().ip(Ip::V4).address_in(Ip::V4, End::Source, "nets4").count("first").drop(),
        Rule::new()
            .ip(Ip::V6)
            .address_not_in(Ip::V6, End::Destination, "nets6")
            .with(Expression::Counter)
            .jump("regular"),
        Rule::new().ip(Ip::V4).address(End::Destination, "10.1.2.3".parse().unwrap()).goto("regular"),
        Rule::new()
            .protocol(1)
            .payload_masked(PayloadBase::Transport, 20, vec![255, 0, 0, 0], vec![10, 0, 0, 0])
            .drop(),
        Rule::new().meta_not(Meta::Mark, 3_u32.to_ne_bytes()).with(Expression::Notrack),
        Rule::new().ct_state(ct_state::INVALID | ct_state::NEW).count("second").comment("odd"),
        Rule::new()
            .with(Expression::Load { to: first, value: vec![1, 0, 0, 0] })
            .with(Expression::MetaSet { key: Meta::Mark, from: first }),
        Rule::new().with(number).with(Expression::Compare {
            from: Register(1),
            operation: Comparison::Less,
            value: vec![0, 0, 0, 2],
        }),
        Rule::new().with(fib).compare(Comparison::Equal, 2_u32.to_ne_bytes()),
        Rule::new().with(Expression::Limit { rate: 5, unit: 1, burst: 7, over: true }).drop(),
        service_key().with(Expression::VerdictMap { set: "verdicts".into(), from: first }),
        service_key().with(Expression::Lookup {
            set: "numbers".into(),
            from: first,
            to: Some(Register(9)),
            inverted: false,
        }),
    ]
}

/// Destination address, protocol and port in registers one behind the other.
fn service_key() -> Rule {
    let load = |base, offset, length, to| Expression::Payload { base, offset, length, to: Register(to) };
    Rule::new()
        .ip(Ip::V4)
        .load(PayloadBase::Network, 16, 4)
        .with(load(PayloadBase::Network, 9, 1, 1))
        .with(load(PayloadBase::Transport, 2, 2, 2))
}

fn state(table: &Table) -> TableState {
    read(table.family, &table.name).unwrap().unwrap()
}

#[test]
fn what_is_applied_is_read_back_and_applied_once() {
    selvedge_lab::isolated!(|| {
        let wanted = everything();
        assert_eq!(read(wanted.family, &wanted.name).unwrap(), None);
        assert!(apply(std::slice::from_ref(&wanted)).unwrap().0.len() > 20);
        assert_eq!(state(&wanted).table, wanted);
        assert_eq!(apply(std::slice::from_ref(&wanted)).unwrap(), Changes::default());
        assert!(tables(Family::Inet).unwrap().contains("everything"));
        assert!(delete(Family::Inet, "everything").unwrap());
        assert!(!delete(Family::Inet, "everything").unwrap());
        assert_eq!(read(wanted.family, &wanted.name).unwrap(), None);
    });
}

#[test]
fn whatever_others_change_is_put_back() {
    selvedge_lab::isolated!(|| {
        let wanted = everything();
        let tampers: [fn(&mut Table); 9] = [
            |table| table.chains.get_mut("filter").unwrap().rules.truncate(2),
            |table| table.chains.get_mut("filter").unwrap().rules.insert(0, Rule::new().accept()),
            |table| table.chains.get_mut("filter").unwrap().base.as_mut().unwrap().priority = 5,
            |table| table.chains.get_mut("input").unwrap().base.as_mut().unwrap().policy = Policy::Accept,
            |table| table.sets.get_mut("nets4").unwrap().elements.clear(),
            |table| {
                table.sets.get_mut("names").unwrap().insert(padded("eth2"));
            },
            |table| {
                table.counter("third");
            },
            |table| {
                table.chain("intruder", Chain::regular(vec![Rule::new().accept()]));
            },
            |table| table.chains.get_mut("regular").unwrap().rules[0].comment = None,
        ];
        for (number, tamper) in tampers.into_iter().enumerate() {
            apply(std::slice::from_ref(&wanted)).unwrap();
            let mut wrong = wanted.clone();
            tamper(&mut wrong);
            assert!(!apply(&[wrong]).unwrap().is_empty(), "tamper {number}");
            assert!(!apply(std::slice::from_ref(&wanted)).unwrap().is_empty(), "tamper {number}");
            assert_eq!(state(&wanted).table, wanted, "tamper {number}");
        }
    });
}

#[test]
fn a_table_put_to_sleep_is_woken() {
    selvedge_lab::isolated!(|| {
        let wanted = everything();
        apply(std::slice::from_ref(&wanted)).unwrap();
        let mut sleep = Transaction::default();
        sleep.raw(NEW_TABLE, Family::Inet, |m| {
            m.put_str(TABLE, "everything");
            m.put_u32(TABLE_FLAGS, DORMANT);
        });
        Socket::open().unwrap().commit(&mut sleep, None).unwrap();
        assert!(state(&wanted).dormant);
        assert_eq!(apply(std::slice::from_ref(&wanted)).unwrap().0.len(), 1);
        assert!(!state(&wanted).dormant);
    });
}

#[test]
fn counters_survive_a_change_of_sets_and_rules() {
    selvedge_lab::isolated!(|| {
        let mut table = Table::new(Family::Inet, "counting");
        let count = Rule::new().oif(1).count("seen");
        table.counter("seen").set("nets4", Set::prefixes(Ip::V4, &nets(&["10.0.0.0/8"])));
        table.chain("out", Chain::base(ChainKind::Filter, Hook::Postrouting, 0, vec![count.clone()]));
        apply(std::slice::from_ref(&table)).unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        }
        table.set("nets4", Set::prefixes(Ip::V4, &nets(&["10.0.0.0/9", "11.0.0.0/8"])));
        table.chain(
            "out",
            Chain::base(ChainKind::Filter, Hook::Postrouting, 10, vec![count, Rule::new().accept()]),
        );
        apply(&[table]).unwrap();
        let counter = counters(Family::Inet, "counting").unwrap()["seen"];
        assert_eq!((counter.packets, counter.bytes), (3, 3 * 29));
    });
}

#[test]
fn a_refusal_names_the_step_and_changes_nothing() {
    selvedge_lab::isolated!(|| {
        let mut table = Table::new(Family::Inet, "broken");
        table.chain(
            "out",
            Chain::base(
                ChainKind::Filter,
                Hook::Postrouting,
                0,
                vec![Rule::new().accept(), Rule::new().count("absent")],
            ),
        );
        let error = apply(&[table]).unwrap_err().to_string();
        assert!(error.contains("add rule 2 of chain out in table inet broken"), "{error}");
        assert!(error.contains("No such file"), "{error}");
        assert_eq!(read(Family::Inet, "broken").unwrap(), None);
    });
}

#[test]
fn concurrent_edits_all_survive() {
    selvedge_lab::isolated!(|| {
        const WRITERS: usize = 16;
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || {
                    let rule = Rule::new().comment(format!("writer {writer}"));
                    edit(Family::Inet, "shared", |table| {
                        table.chain(format!("chain{writer}"), Chain::regular(vec![rule.clone()]));
                    })
                    .unwrap();
                });
            }
        });
        let table = read(Family::Inet, "shared").unwrap().unwrap().table;
        assert_eq!(table.chains.len(), WRITERS);
        assert!(table.chains.values().all(|chain| chain.rules.len() == 1), "{table:?}");
    });
}

#[test]
fn an_ingress_chain_hangs_on_its_device() {
    selvedge_lab::isolated!(|| {
        let mut table = Table::new(Family::Netdev, "ports");
        let arp = Rule::new().ethertype(0x0806).payload_not(PayloadBase::Network, 14, [10, 0, 0, 1]).drop();
        table.chain("lo", Chain::ingress("lo", -500, vec![arp]));
        apply(std::slice::from_ref(&table)).unwrap();
        assert_eq!(state(&table).table, table);
        assert!(apply(&[table]).unwrap().is_empty());
    });
}

#[test]
fn forty_five_thousand_elements_in_one_transaction() {
    selvedge_lab::isolated!(|| {
        let mut map = Set::map(
            Type(vec![Field::Ipv4, Field::Protocol, Field::Port]),
            DataType::Value(Field::Mark.into()),
        );
        for number in 0..45_000_u32 {
            let mut key = number.to_be_bytes().to_vec();
            key.extend([6, 0, 0, 0, 0, 80, 0, 0]);
            map.insert_data(key, Data::Value(number.to_ne_bytes().to_vec()));
        }
        let mut table = Table::new(Family::Inet, "large");
        table.set("service", map);
        let start = std::time::Instant::now();
        apply(std::slice::from_ref(&table)).unwrap();
        let written = start.elapsed();
        // While the kernel resizes its hash table in the background, a dump misses elements; adding them again
        // changes nothing.
        let deadline = start + std::time::Duration::from_secs(20);
        let compared = loop {
            let start = std::time::Instant::now();
            if apply(std::slice::from_ref(&table)).unwrap().is_empty() {
                break start.elapsed();
            }
            assert!(start < deadline, "waited 20 s for the kernel to list all elements");
        };
        println!("45,000 elements: written in {written:?}, compared in {compared:?}");
        let last = table.sets["service"].elements.keys().next_back().unwrap().clone();
        table.sets.get_mut("service").unwrap().elements.remove(&last);
        assert_eq!(apply(&[table]).unwrap().0.len(), 1);
    });
}

/// Prefixes that touch, overlap and reach both ends of the address space.
fn some_prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    let v4 = (any::<u8>(), 4_u8..=10).prop_map(|(first, length)| {
        IpNet::new_assert(std::net::Ipv4Addr::new(first, 0, 0, 0).into(), length).trunc()
    });
    let v6 = (any::<u8>(), 4_u8..=10).prop_map(|(first, length)| {
        IpNet::new_assert(std::net::Ipv6Addr::from(u128::from(first) << 120).into(), length).trunc()
    });
    proptest::collection::vec(prop_oneof![v4, v6], 0..6)
}

#[test]
fn any_set_of_prefixes_becomes_any_other() {
    selvedge_lab::isolated!(|| {
        let mut runner =
            TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        runner
            .run(&some_prefixes(), |prefixes| {
                let mut table = Table::new(Family::Inet, "random");
                for ip in Ip::BOTH {
                    table.set(format!("nets{}", ip.digit()), Set::prefixes(ip, &prefixes));
                }
                apply(std::slice::from_ref(&table)).unwrap();
                prop_assert_eq!(state(&table).table, table);
                Ok(())
            })
            .unwrap();
        assert_eq!(tables(Family::Inet).unwrap(), BTreeSet::from(["random".to_owned()]));
    });
}
