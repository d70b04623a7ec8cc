//! Intervals in concatenations.

use super::*;

const POLICY: [Field; 3] = [Field::Ipv4, Field::Protocol, Field::Port];
const UDP: u8 = 17;

fn rule(prefix: &str, ports: std::ops::RangeInclusive<u16>) -> Concat {
    Concat::new().prefix(prefix.parse().unwrap()).protocol(UDP).ports(ports)
}

/// A set of what is allowed, a verdict map, and a chain that counts what they match.
fn policy() -> Table {
    let mut allowed = Set::new(POLICY).of_ranges();
    allowed.insert(rule("127.1.0.0/16", 1000..=1999)).insert(rule("127.2.0.1/32", 2000..=2000));
    allowed.insert(rule("127.4.0.0/14", 0..=u16::MAX)).insert(rule("127.1.0.0/16", 3000..=3000));
    let mut verdicts = Set::map([Field::Ipv6, Field::Protocol, Field::Port], DataType::Verdict).of_ranges();
    verdicts.insert_data(rule("::/64", 1000..=1999), Data::Verdict(Verdict::Jump("hit".into())));
    verdicts.insert_data(rule("fd00::/8", 7..=7), Data::Verdict(Verdict::Drop));
    let fields =
        |ip| [Selector::Address(ip, End::Destination), Selector::Protocol, Selector::Port(End::Destination)];
    let mut table = Table::new(Family::Inet, "policy");
    table
        .counter("allowed")
        .counter("other")
        .counter("hit")
        .set("allowed", allowed)
        .set("verdicts", verdicts);
    table.chain("hit", Chain::regular(vec![Rule::new().count("hit")]));
    let rules = vec![
        Rule::new().ip(Ip::V4).in_set(&fields(Ip::V4), "allowed").count("allowed"),
        Rule::new().ip(Ip::V4).protocol(UDP).not_in_set(&fields(Ip::V4), "allowed").count("other"),
        Rule::new().ip(Ip::V6).vmap(&fields(Ip::V6), "verdicts"),
    ];
    table.chain("out", Chain::base(ChainKind::Filter, Hook::Output, 0, rules));
    table
}

#[test]
fn concatenated_ranges_are_read_back_and_applied_once() {
    selvedge_lab::isolated!(|| {
        let mut table = policy();
        apply(std::slice::from_ref(&table)).unwrap();
        assert_eq!(state(&table).table, table);
        assert!(apply(std::slice::from_ref(&table)).unwrap().is_empty());
        let allowed = table.sets.get_mut("allowed").unwrap();
        allowed.elements.remove(&rule("127.4.0.0/14", 0..=u16::MAX).into());
        allowed.insert(rule("127.4.0.0/15", 0..=9));
        assert_eq!(apply(std::slice::from_ref(&table)).unwrap().0.len(), 2);
        assert_eq!(state(&table).table, table);
    });
}

#[test]
fn packets_are_matched_by_prefix_protocol_and_port_range() {
    selvedge_lab::isolated!(|| {
        let table = policy();
        apply(std::slice::from_ref(&table)).unwrap();
        let mut expected = (0, 0);
        for (to, allowed) in [
            ("127.1.2.3:1000", true),
            ("127.1.255.255:1999", true),
            ("127.1.0.0:2000", false),
            ("127.1.0.0:999", false),
            ("127.1.9.9:3000", true),
            ("127.2.0.1:2000", true),
            ("127.2.0.2:2000", false),
            ("127.2.0.1:2001", false),
            ("127.7.255.255:9", true),
            ("127.8.0.0:9", false),
        ] {
            send(to);
            if allowed {
                expected.0 += 1;
            } else {
                expected.1 += 1;
            }
            assert_eq!((counted(&table, "allowed"), counted(&table, "other")), expected, "{to}");
        }
        send("[::1]:1500");
        send("[::1]:2500");
        assert_eq!(counted(&table, "hit"), 1);
        let mut update = Update::new(table.family, &table.name);
        update
            .delete("allowed", rule("127.2.0.1/32", 2000..=2000))
            .insert("allowed", rule("127.8.0.0/16", 9..=9));
        Connection::open().unwrap().update(&update).unwrap();
        send("127.2.0.1:2000");
        send("127.8.0.0:9");
        assert_eq!((counted(&table, "allowed"), counted(&table, "other")), (expected.0 + 1, expected.1 + 1));
    });
}

/// What whoever fills such a set has to know: ranges may lie side by side and cross, but not be nested.
#[test]
fn nested_ranges_are_refused() {
    selvedge_lab::isolated!(|| {
        let table = policy();
        let mut connection = Connection::open().unwrap();
        connection.apply(std::slice::from_ref(&table)).unwrap();
        let mut insert = |prefix, ports| {
            connection.update(Update::new(table.family, &table.name).insert("allowed", rule(prefix, ports)))
        };
        for (prefix, ports) in
            [("127.1.0.0/16", 1000..=1999), ("127.1.3.0/24", 1000..=1999), ("127.1.0.0/16", 1500..=1600)]
        {
            let error = insert(prefix, ports).unwrap_err();
            assert!(matches!(error, Error::Stale { .. }), "{error}");
        }
        for (prefix, ports) in [("127.1.0.0/16", 2000..=2999), ("127.3.0.0/16", 1000..=1999)] {
            insert(prefix, ports).unwrap();
        }
    });
}

/// Prints what one change costs: the kernel copies such a set for each transaction that changes it.
#[test]
fn the_cost_of_a_change_grows_with_a_set_of_concatenated_ranges() {
    selvedge_lab::isolated!(|| {
        const ROUNDS: u16 = 50;
        let mut connection = Connection::open().unwrap();
        for number in [100_u32, 1_000, 10_000] {
            let mut set = Set::new(POLICY).of_ranges();
            for number in 0..number {
                let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
                set.insert(Concat::new().address(address.into()).protocol(UDP).ports(80..=89));
            }
            let mut table = Table::new(Family::Inet, "policy");
            table.set("allowed", set);
            let start = std::time::Instant::now();
            connection.apply(std::slice::from_ref(&table)).unwrap();
            let applied = start.elapsed();
            let mut times: Vec<_> = (0..ROUNDS)
                .map(|round| {
                    let start = std::time::Instant::now();
                    let mut update = Update::new(Family::Inet, "policy");
                    update.insert("allowed", rule("127.0.0.0/8", round * 10..=round * 10 + 9));
                    connection.update(&update).unwrap();
                    start.elapsed()
                })
                .collect();
            times.sort_unstable();
            let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
            println!(
                "{number} ranges: applied in {applied:?}; update {median:?} (median), {longest:?} (longest)"
            );
            let found = connection.elements(Family::Inet, "policy", "allowed").unwrap();
            assert_eq!(found.len(), table.sets["allowed"].elements.len() + usize::from(ROUNDS));
            connection.delete(Family::Inet, "policy").unwrap();
        }
    });
}
