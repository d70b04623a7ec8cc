//! The one window that is known: somebody flushes the ruleset, and with it the guard. What leaks until it is back is
//! counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use selvedge::kernel::nft::{self, Family};
use selvedge::{egress, guard};
use selvedge_lab::isolated;
use selvedge_lab::process::wait_for;
use selvedge_lab::scenario::Flusher;
use socket2::{Domain, Socket, Type};

use crate::flow::Target;
use crate::stage::{SOON, Stage};

const ROUNDS: usize = 20;

/// Sends to all targets from the near pod as fast as can be, while `body` runs; gives how many packets.
fn flood(stage: &Stage, targets: &[Target], body: impl FnOnce()) -> u64 {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let open =
                |target: &Target| Socket::new(Domain::for_address(target.to), Type::DGRAM, None).unwrap();
            let sockets = || targets.iter().map(open).collect::<Vec<_>>();
            let mut open = stage.near.ns.run(sockets).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    for (target, socket) in targets.iter().zip(&open) {
                        let _ = socket.send_to(&target.payload, &target.to.into());
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // New ports are new connections, which NAT decides on anew.
                open = stage.near.ns.run(sockets).unwrap();
            }
        });
        wait_for("the flood", SOON, || sent.load(Ordering::Relaxed) > 200).unwrap();
        sent.store(0, Ordering::Relaxed);
        body();
        stop.store(true, Ordering::Relaxed);
    });
    sent.load(Ordering::Relaxed)
}

/// Both tables are there.
fn whole(stage: &Stage) -> bool {
    let tables = stage.node(0).space().run(|| nft::tables(Family::Inet)).unwrap().unwrap();
    tables.contains(guard::TABLE) && tables.contains(egress::TABLE)
}

fn leaks(stage: &Stage) -> u64 {
    let seen = stage.seen();
    assert!(seen.iter().all(|seen| seen.drops == 0), "frames were not captured");
    seen.iter().map(|seen| seen.leaks).sum()
}

/// Takes something away many times while the pod floods; prints what leaked until it was back.
fn measure(stage: &Stage, name: &str, targets: &[Target], strike: &dyn Fn()) -> (u64, Duration) {
    let (mut leaked, mut most, mut gaps) = (0, 0, Vec::new());
    let mut sent = 0;
    for _ in 0..ROUNDS {
        let before = leaks(stage);
        sent += flood(stage, targets, || {
            let start = Instant::now();
            strike();
            wait_for("the tables to be back", SOON, || whole(stage)).unwrap();
            gaps.push(start.elapsed());
        });
        let round = leaks(stage) - before;
        leaked += round;
        most = most.max(round);
    }
    gaps.sort();
    let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!(
        "{name}: {ROUNDS} times; back after {median:?} (median; longest {longest:?}); {leaked} of {sent} packets \
         leaked, at most {most} at once"
    );
    (leaked, longest)
}

#[test]
fn what_leaks_when_tables_are_flushed() {
    isolated!(|| {
        let stage = Stage::quiet(2);
        let node = stage.node(0);
        let flusher = Flusher::open(node.space().net()).unwrap();
        let flush = || flusher.flush_ruleset().unwrap();
        let (internet, inside) = (stage.to_internet(), [stage.to_pod(&stage.far), stage.to_node(1)].concat());
        let (leaked, _) = measure(&stage, "ruleset flushed, packets to other nodes", &inside, &flush);
        assert_eq!(leaked, 0, "the routes hold for pods and nodes");
        let (_, longest) = measure(&stage, "ruleset flushed, packets to the internet", &internet, &flush);
        assert!(longest < Duration::from_secs(5), "back after {longest:?}");
        let (_, longest) =
            measure(&stage, "ruleset flushed, packets to no Service", &stage.to_nobody(), &flush);
        assert!(longest < Duration::from_secs(5), "back after {longest:?}");
        let delete = || {
            let deleted = node.space().run(|| nft::delete(Family::Inet, guard::TABLE));
            assert!(deleted.unwrap().unwrap(), "there was no guard");
        };
        measure(&stage, "guard deleted, packets to no Service", &stage.to_nobody(), &delete);
        // While the agent is down, nobody puts it back: this is what the guard is for.
        let before = leaks(&stage);
        node.agent.hold();
        flush();
        let sent = flood(&stage, &[internet.clone(), stage.to_nobody()].concat(), || {
            let to = SocketAddr::new(stage.far.addresses[0], 8080);
            let _ = selvedge_lab::traffic::ask(&stage.near.ns, to, stage.lab.canary());
        });
        println!("ruleset flushed, agent down: {} of {sent} packets leaked", leaks(&stage) - before);
        node.agent.resume();
        wait_for("the tables to be back", SOON, || whole(&stage)).unwrap();
        let before = leaks(&stage);
        flood(&stage, &[internet, stage.to_nobody()].concat(), || ());
        assert_eq!(leaks(&stage), before, "nothing leaks once they are back");
        stage.lab.plant().unwrap();
        for seen in stage.seen() {
            assert!(seen.planted > 0 && seen.found == seen.planted, "{seen:?}");
        }
    });
}
