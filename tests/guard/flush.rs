//! The one window that is known: somebody flushes the ruleset, and with it the guard. What leaks until it is back is
//! counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use selvedge::kernel::nft::{self, Family};
use selvedge::{egress, guard};
use selvedge_lab::plan::Datapath;
use selvedge_lab::process::wait_for;
use selvedge_lab::scenario::{self, Flusher};
use selvedge_lab::stop::StopOnDrop;
use selvedge_lab::{isolated, traffic};
use socket2::{Domain, Socket, Type};

use crate::flow::Target;
use crate::stage::{POD_PORT, SOON, Stage};

const ROUNDS: usize = 20;
/// The kernel takes packets through each hook in batches of at most this size on each processor (`netdev_budget` aside,
/// a device's share is 64): so many may be between two hooks when the tables go.
const BATCH: u64 = 64;

/// More cannot have been under way at once, and a busy processor may have had two batches.
fn under_way() -> u64 {
    2 * BATCH * std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

/// Sends to all targets from the near pod as fast as can be, while `body` runs; gives how many packets.
fn flood(stage: &Stage, targets: &[Target], body: impl FnOnce()) -> u64 {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
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
fn measure(stage: &Stage, name: &str, targets: &[Target], strike: &dyn Fn()) -> u64 {
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
        "{name}, {ROUNDS} times: back after {median:?} (median; longest {longest:?}); {leaked} of {sent} packets \
         leaked, at most {most} at once"
    );
    assert!(most <= under_way(), "{name}: more leaked than was under way");
    leaked
}

#[test]
fn what_leaks_when_tables_are_flushed() {
    isolated!(|| flushed(&Stage::quiet(2)));
}

#[test]
fn what_leaks_when_tables_are_flushed_where_pods_have_no_bridge() {
    isolated!(|| flushed(&Stage::wired(2, Datapath::Routed)));
}

fn flushed(stage: &Stage) {
    let node = stage.node(0);
    let flusher = Flusher::open(node.space().net()).unwrap();
    let flush = || flusher.flush_ruleset().unwrap();
    let (internet, inside) = (stage.to_internet(), [stage.to_pod(&stage.far), stage.to_node(1)].concat());
    let leaked = measure(stage, "ruleset flushed, packets to other nodes", &inside, &flush);
    assert_eq!(leaked, 0, "the routes hold for pods and nodes");
    measure(stage, "ruleset flushed, packets to the internet", &internet, &flush);
    measure(stage, "ruleset flushed, packets to no Service", &stage.to_nobody(), &flush);
    let delete = || {
        let deleted = node.space().run(|| nft::delete(Family::Inet, guard::TABLE));
        assert!(deleted.unwrap().unwrap(), "there was no guard");
    };
    measure(stage, "guard deleted, packets to no Service", &stage.to_nobody(), &delete);
    let astray = [internet, stage.to_nobody()].concat();
    let leaking = |what: &str| {
        let before = leaks(stage);
        let sent = flood(stage, &astray, || {
            // So that the flood goes on for a while.
            let to = SocketAddr::new(stage.far.addresses[0], POD_PORT);
            (0..20).for_each(|_| drop(traffic::ask(&stage.near.ns, to, stage.lab.canary())));
        });
        let leaked = leaks(stage) - before;
        println!("{what}: {leaked} of {sent} packets leaked");
        leaked
    };
    node.agent.hold();
    flush();
    assert!(leaking("ruleset flushed, agent down") <= under_way(), "the rules hold on their own");
    // And this is how it looks without them: the capture sees what leaks.
    stage.lab.runtime().block_on(scenario::flush_rules(node.space().net())).unwrap();
    assert!(leaking("ruleset and rules flushed, agent down") > 0, "the captures see nothing");
    node.agent.resume();
    wait_for("the tables to be back", SOON, || whole(stage)).unwrap();
    let rules = || stage.lab.runtime().block_on(async { node.netlink().unwrap().rules().await.unwrap() });
    wait_for("the rules to be back", SOON, || rules().len() >= 6).unwrap();
    assert_eq!(leaking("all back"), 0, "nothing leaks once they are back");
    stage.lab.plant().unwrap();
    for seen in stage.seen() {
        assert!(seen.planted > 0 && seen.found == seen.planted, "{seen:?}");
    }
}
