//! Changes of elements alone.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use selvedge_lab::stop::StopOnDrop;

use super::*;

const SERVICE: [Field; 3] = [Field::Ipv4, Field::Protocol, Field::Port];
const BACKEND: [Field; 4] = [Field::Ipv4, Field::Protocol, Field::Port, Field::Number];

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn service(number: u32) -> Concat {
    Concat::new().address(address(number)).protocol(6).port(80)
}

fn mark(number: u32) -> Data {
    Data::Value(number.to_ne_bytes().to_vec())
}

fn backend(number: u32) -> Data {
    Concat::new().address(address(number)).port(8080).into()
}

/// As many Services with two backends each.
fn services(number: u32) -> Table {
    let mut map = Set::map(SERVICE, DataType::Value(Field::Mark.into()));
    let mut backends = Set::map(BACKEND, DataType::Value([Field::Ipv4, Field::Port].into()));
    for service_number in 0..number {
        map.insert_data(service(service_number), mark(2));
        for index in 0..2 {
            backends.insert_data(service(service_number).number(index), backend(service_number * 2 + index));
        }
    }
    let mut table = Table::new(Family::Inet, "services");
    table.set("service", map).set("backend", backends);
    table
}

fn update() -> Update {
    Update::new(Family::Inet, "services")
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn several_sets_change_in_one_transaction() {
    selvedge_lab::isolated!(|| {
        let mut table = services(3);
        table.set("nets", Set::prefixes(Ip::V4, &nets(&["10.0.0.0/24", "10.0.2.0/24"])));
        table.set("ports", Set::new([Field::Ipv4, Field::Port]).of_ranges());
        apply(std::slice::from_ref(&table)).unwrap();
        let mut connection = Connection::open().unwrap();
        let before = connection.generation().unwrap();
        let ports = Concat::new().prefix(prefix("10.0.0.0/8")).ports(80..=89);
        let mut update = update();
        update.replace("service", service(0), mark(3)).delete("service", service(1));
        update.add("service", service(7), mark(2)).delete("backend", service(1).number(0));
        // Between two neighbours, which it touches.
        update.insert("nets", prefix("10.0.1.0/24")).delete("nets", prefix("10.0.0.0/24"));
        update.insert("ports", ports.clone());
        let sent = connection.sent();
        assert_eq!(connection.update(&update).unwrap().0.len(), 6);
        // One batch, and nothing is read.
        assert_eq!(connection.sent(), Sent { batches: sent.batches + 1, ..sent });
        assert_eq!(connection.generation().unwrap(), before + 1);

        let map = table.sets.get_mut("service").unwrap();
        map.insert_data(service(0), mark(3)).insert_data(service(7), mark(2));
        map.elements.remove(&service(1).into());
        table.sets.get_mut("backend").unwrap().elements.remove(&service(1).number(0).into());
        let ranges = table.sets.get_mut("nets").unwrap();
        ranges.elements.remove(&prefix("10.0.0.0/24").into());
        ranges.insert(prefix("10.0.1.0/24"));
        table.sets.get_mut("ports").unwrap().insert(ports);
        assert_eq!(state(&table).table, table);
        assert!(connection.apply(&[table]).unwrap().is_empty());
        assert!(connection.update(&Update::new(Family::Inet, "absent")).unwrap().is_empty());
    });
}

#[test]
fn an_update_whose_assumptions_are_stale_changes_nothing() {
    selvedge_lab::isolated!(|| {
        let mut table = services(3);
        table.set("nets", Set::prefixes(Ip::V4, &nets(&["10.0.0.0/24"])));
        let mut connection = Connection::open().unwrap();
        connection.apply(std::slice::from_ref(&table)).unwrap();
        let generation = connection.generation().unwrap();
        let stale: [fn(&mut Update); 7] = [
            |update| {
                update.delete("service", service(9));
            },
            |update| {
                update.add("service", service(1), mark(2));
            },
            |update| {
                update.add("service", service(1), mark(3));
            },
            |update| {
                update.add("absent", service(9), mark(3));
            },
            |update| {
                update.insert("nets", prefix("10.0.0.0/24"));
            },
            |update| {
                update.delete("nets", prefix("10.0.0.0/25"));
            },
            |update| *update = update.clone().if_generation(1),
        ];
        for (number, spoil) in stale.into_iter().enumerate() {
            let mut update = update();
            update.delete("backend", service(0).number(0)).add("backend", service(9).number(0), backend(9));
            spoil(&mut update);
            let error = connection.update(&update).unwrap_err();
            assert!(matches!(error, Error::Stale { .. }), "{number}: {error}");
            assert_eq!(connection.generation().unwrap(), generation, "{number}");
            assert_eq!(state(&table).table, table, "{number}");
        }
        let mut now = update().if_generation(generation);
        connection.update(now.delete("service", service(1))).unwrap();
        let error = connection.update(now.delete("service", service(2))).unwrap_err();
        assert!(error.to_string().contains("the table is not what was assumed"), "{error}");
        connection.delete(Family::Inet, "services").unwrap();
        let error = connection.update(update().delete("service", service(2))).unwrap_err();
        assert!(
            error.to_string().contains("delete elements of set service in table inet services"),
            "{error}"
        );
    });
}

#[test]
fn what_the_kernel_cannot_do_is_not_stale() {
    selvedge_lab::isolated!(|| {
        let mut table = Table::new(Family::Inet, "services");
        table.set("few", Set { size: Some(2), ..Set::new(Field::Mark) });
        apply(std::slice::from_ref(&table)).unwrap();
        assert_eq!(state(&table).table, table);
        let mut update = update();
        (0..3_u32).for_each(|number| {
            update.insert("few", number.to_ne_bytes());
        });
        let error = Connection::open().unwrap().update(&update).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert_eq!(state(&table).table, table);
    });
}

#[test]
fn a_hundred_thousand_elements_in_one_update() {
    selvedge_lab::isolated!(|| {
        const NUMBER: u32 = 100_000;
        let mut connection = Connection::open().unwrap();
        connection.apply(&[services(0)]).unwrap();
        let before = connection.generation().unwrap();
        let elements =
            |connection: &mut Connection| connection.elements(Family::Inet, "services", "service").unwrap();
        let (mut add, mut replace, mut delete) = (update(), update(), update());
        for number in 0..NUMBER {
            add.add("service", service(number), mark(1));
            replace.replace("service", service(number), mark(2));
            delete.delete("service", service(number));
        }
        for (name, update, number, value) in [
            ("add", add, NUMBER, mark(1)),
            ("replace", replace, NUMBER, mark(2)),
            ("delete", delete, 0, mark(0)),
        ] {
            let start = Instant::now();
            connection.update(&update).unwrap();
            println!("{name} 100,000 elements: {:?}", start.elapsed());
            // A dump misses elements while the kernel resizes its hash table in the background.
            wait_for("the kernel to list all elements", || {
                let found = elements(&mut connection);
                assert!(found.values().all(|element| element.data == value));
                found.len() == usize::try_from(number).unwrap()
            });
        }
        assert_eq!(connection.generation().unwrap(), before + 3);
    });
}

#[test]
fn a_refused_hundred_thousand_changes_nothing() {
    selvedge_lab::isolated!(|| {
        let mut connection = Connection::open().unwrap();
        connection.apply(&[services(1)]).unwrap();
        let mut last_is_there = update();
        (1..100_000).for_each(|number| {
            last_is_there.add("service", service(number), mark(1));
        });
        last_is_there.add("backend", service(0).number(1), backend(0));
        // Every message is refused: more answers than one.
        let mut none_is_there = update();
        (1..100_000).for_each(|number| {
            none_is_there.delete("service", service(number));
        });
        for wrong in [last_is_there, none_is_there] {
            assert!(matches!(connection.update(&wrong), Err(Error::Stale { .. })));
            assert_eq!(state(&services(1)).table, services(1));
        }
        connection.update(update().add("service", service(1), mark(1))).unwrap();
    });
}

/// Prints what one Service's change costs, and asserts that it hardly depends on how many there are.
#[test]
fn an_update_costs_the_same_however_many_elements_there_are() {
    selvedge_lab::isolated!(|| {
        const ROUNDS: u32 = 200;
        let mut connection = Connection::open().unwrap();
        let mut medians = Vec::new();
        for number in [10, 10_000, 45_000] {
            let table = services(number);
            let start = Instant::now();
            connection.apply(std::slice::from_ref(&table)).unwrap();
            let applied = start.elapsed();
            let mut times: Vec<Duration> = (0..ROUNDS)
                .map(|round| {
                    let start = Instant::now();
                    let mut update = update();
                    update.replace("service", service(round % number), mark(round));
                    connection.update(&update).unwrap();
                    start.elapsed()
                })
                .collect();
            times.sort_unstable();
            let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
            println!(
                "{number} services, 2 backends each: applied in {applied:?}; update {median:?} (median), {longest:?} (longest)"
            );
            medians.push(median);
        }
        // In proportion it would be 4,500 times as much.
        assert!(medians[2] < medians[0] * 20, "{medians:?}");
    });
}

/// Reading a large table takes longer than others leave the ruleset alone.
#[test]
fn a_large_table_is_applied_and_read_while_others_commit_all_the_time() {
    selvedge_lab::isolated!(|| {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut other = Table::new(Family::Inet, "other");
        other.set("set", Set::new(Field::Mark));
        apply(&[other]).unwrap();
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            scope.spawn(|| {
                let mut connection = Connection::open().unwrap();
                let mut number = 0_u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut update = Update::new(Family::Inet, "other");
                    connection.update(update.insert("set", number.to_ne_bytes())).unwrap();
                    number += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let mut connection = Connection::open().unwrap();
            let mut table = services(10_000);
            let start = Instant::now();
            let applied = connection.apply(std::slice::from_ref(&table));
            table.sets.get_mut("service").unwrap().insert_data(service(10_000), mark(2));
            let applied = applied.and_then(|_| connection.apply(std::slice::from_ref(&table)));
            let found = connection.read(Family::Inet, "services");
            println!("applied twice and read, with a change of others every 2 ms: {:?}", start.elapsed());
            applied.unwrap();
            assert_eq!(found.unwrap().unwrap().table.sets["service"].elements.len(), 10_001);
        });
    });
}

#[test]
fn any_elements_become_any_others() {
    selvedge_lab::isolated!(|| {
        let mut runner =
            TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
        let some = || proptest::collection::btree_map(0..40_u32, 0..3_u32, 0..30);
        let table = |elements: &BTreeMap<u32, u32>| {
            let mut map = Set::map(SERVICE, DataType::Value(Field::Mark.into()));
            elements.iter().for_each(|(number, value)| {
                map.insert_data(service(*number), mark(*value));
            });
            let mut table = Table::new(Family::Inet, "services");
            table.set("service", map);
            table
        };
        runner
            .run(&(some(), some()), |(before, after)| {
                let (before, after) = (table(&before), table(&after));
                let mut connection = Connection::open().unwrap();
                connection.apply(std::slice::from_ref(&before)).unwrap();
                let mut update = update();
                update.difference("service", &before.sets["service"], &after.sets["service"]);
                connection.update(&update).unwrap();
                prop_assert_eq!(state(&after).table, after);
                Ok(())
            })
            .unwrap();
    });
}
