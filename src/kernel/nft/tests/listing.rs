//! What `nft` shows of our tables, and takes back.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Runs `nft`; nothing when it is not installed.
fn nft(arguments: &[&str], input: &str) -> Option<String> {
    let spawned = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        child => child.unwrap(),
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "nft {arguments:?}: {}\n{input}", text(&output.stderr));
    Some(text(&output.stdout))
}

fn types(fields: &[Selector]) -> Type {
    Type(fields.iter().map(|selector| selector.field()).collect())
}

fn client(ip: Ip) -> [Selector; 2] {
    [Selector::Address(ip, End::Source), Selector::OriginalAddress(ip, End::Destination)]
}

fn backend(ip: Ip) -> [Selector; 2] {
    [Selector::Address(ip, End::Destination), Selector::Port(End::Destination)]
}

/// A map that packets fill.
fn affinity(key: &[Selector], value: &[Selector]) -> Set {
    let map = Set::map(types(key), DataType::Value(types(value)));
    map.expiring(Expiry::After(MINUTE)).dynamic(65_535)
}

/// A table with concatenations, ranges in them, timeouts, and what packets fill.
fn services() -> Table {
    let service =
        |ip| [Selector::Address(ip, End::Destination), Selector::Protocol, Selector::Port(End::Destination)];
    let mut table = Table::new(Family::Inet, "services");
    let mut kinds = Set::map(Field::Mark, DataType::Verdict);
    kinds.insert_data(2_u32.to_ne_bytes(), Data::Verdict(Verdict::Goto("two".into())));
    table.set("kind", kinds).chain("two", Chain::regular(vec![Rule::new().end()]));
    for ip in Ip::BOTH {
        let name = |name: &str| format!("{name}{}", ip.digit());
        let field = ip.field();
        let [prefix, address] = match ip {
            Ip::V4 => ["10.0.0.0/8", "10.96.0.1/32"],
            Ip::V6 => ["fd00::/8", "fd96::1/128"],
        };
        let [prefix, address]: [IpNet; 2] = [prefix, address].map(|text| text.parse().unwrap());
        let key = || Concat::new().address(address.addr()).protocol(6).port(443);
        let mut numbers =
            Set::map([field, Field::Protocol, Field::Port], DataType::Value(Field::Mark.into()));
        numbers.insert_data(key(), Data::Value(2_u32.to_ne_bytes().to_vec()));
        let mut backends = Set::map(
            [field, Field::Protocol, Field::Port, Field::Number],
            DataType::Value([field, Field::Port].into()),
        );
        backends.insert_data(key().number(1), Data::from(Concat::new().address(address.addr()).port(8443)));
        let mut allowed = Set::new([field, Field::Protocol, Field::Port]).of_ranges();
        allowed.insert(Concat::new().prefix(prefix).protocol(6).ports(80..=89));
        allowed.insert(Concat::new().prefix(address).protocol(17).port(53));
        let mut expiring = Set::new([field, Field::Mark]).expiring(Expiry::PerElement);
        let element = Element::from(Data::None).expiring(MINUTE);
        expiring.insert_data(Concat::new().address(address.addr()).mark(7), element);
        // More than 16 bytes of key or value is too much for the update statements of nft 1.0.6.
        let tcp = || Rule::new().protocol(6).ip(ip);
        let (learn, client, backend) = match ip {
            Ip::V4 => (Rule::new().ip(ip).protocol(6), &client(ip)[..], &backend(ip)[..]),
            Ip::V6 => (tcp(), &client(ip)[..1], &backend(ip)[..1]),
        };
        let affinity = affinity(client, backend);
        let seen = Set::new(field).expiring(Expiry::After(MINUTE)).dynamic(1000);
        table.set(name("number"), numbers).set(name("backend"), backends).set(name("allowed"), allowed);
        table.set(name("expiring"), expiring).set(name("affinity"), affinity).set(name("seen"), seen);
        let source = Selector::Address(ip, End::Source);
        let rules = vec![
            tcp().change_set(SetOperation::Add, &name("seen"), &[source], None),
            tcp().change_set(SetOperation::Delete, &name("seen"), &[source], None),
            learn.change_map(SetOperation::Update, &name("affinity"), client, backend, Some(MINUTE * 3)),
            Rule::new().ip(ip).in_set(&service(ip), &name("allowed")).accept(),
            Rule::new().ip(ip).in_set(&[source, Selector::Mark], &name("expiring")).drop(),
        ];
        table.chain(name("learn"), Chain::base(ChainKind::Filter, Hook::Forward, 0, rules));
        let drawn = [&service(ip)[..], &[Selector::Random(2)]].concat();
        let mark = Expression::MetaSet { key: Meta::Mark, from: Register::FIRST };
        let rules = vec![
            Rule::new().ip(ip).map(&service(ip), &name("number")).with(mark),
            Rule::new().vmap(&[Selector::Mark], "kind"),
            Rule::new().ip(ip).map(&drawn, &name("backend")).dnat_to_mapped(ip),
        ];
        table.chain(name("nat"), Chain::base(ChainKind::Nat, Hook::Prerouting, -100, rules));
    }
    table
}

/// In keys of interval sets `nft` turns the byte order of the protocol around, which is one byte.
fn without_byte_order(mut table: Table) -> Table {
    let is_byte_order = |expression: &Expression| *expression == Expression::Unknown("byteorder".into());
    for rule in table.chains.values_mut().flat_map(|chain| &mut chain.rules) {
        rule.expressions.retain(|expression| !is_byte_order(expression));
    }
    table
}

#[test]
fn nft_lists_our_tables_and_takes_the_listing_back() {
    selvedge_lab::isolated!(|| {
        let wanted = services();
        apply(std::slice::from_ref(&wanted)).unwrap();
        let Some(listing) = nft(&["list", "ruleset"], "") else {
            return println!("skipped: nft is not installed");
        };
        println!("{listing}");
        delete(wanted.family, &wanted.name).unwrap();
        nft(&["-f", "-"], &listing);
        let found = state(&wanted).table;
        assert_eq!(without_byte_order(found.clone()), wanted);
        assert_eq!(apply(std::slice::from_ref(&wanted)).unwrap().is_empty(), found == wanted);
        assert_eq!(state(&wanted).table, wanted);
    });
}

/// `nft -f` of this listing fails an assertion of nft 1.0.6.
#[test]
fn nft_lists_what_it_does_not_take_back() {
    selvedge_lab::isolated!(|| {
        let (key, value) = (client(Ip::V6), backend(Ip::V6));
        let learn = Rule::new().ip(Ip::V6).protocol(6);
        let rule = learn.change_map(SetOperation::Update, "affinity", &key, &value, None);
        let mut table = Table::new(Family::Inet, "services");
        table.set("affinity", affinity(&key, &value));
        table.chain("learn", Chain::base(ChainKind::Filter, Hook::Forward, 0, vec![rule]));
        apply(std::slice::from_ref(&table)).unwrap();
        assert_eq!(state(&table).table, table);
        let Some(listing) = nft(&["list", "ruleset"], "") else {
            return println!("skipped: nft is not installed");
        };
        let statement = "update @affinity { ip6 saddr . ct original ip6 daddr : ip6 daddr . tcp dport }";
        assert!(listing.contains(statement), "{listing}");
    });
}
