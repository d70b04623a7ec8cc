//! What leaks between somebody's flush and the repair.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use selvedge::kernel::monitor::{Change, Monitor};
use selvedge::kernel::nft::{Family, delete};
use selvedge::{egress, guard};
use selvedge_lab::isolated;

use crate::node::{Node, egress_config, families, guard_config};
use crate::packet::datagram;

const ROUNDS: usize = 50;

/// Puts both tables back whenever a change is told, as the agent does; stops when told to.
fn keep(stop: &AtomicBool, ready: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut monitor = Monitor::new().unwrap();
        ready.store(true, Ordering::SeqCst);
        while !stop.load(Ordering::SeqCst) {
            let told = tokio::time::timeout(Duration::from_millis(100), monitor.next()).await;
            if told.is_ok_and(|changes| changes.unwrap().contains(&Change::Nftables)) {
                guard::ensure(&guard_config()).unwrap();
                egress::ensure(&egress_config()).unwrap();
            }
        }
    });
}

/// Deletes our tables, and sends a packet of the pod's again and again until the guard is back: time and leaks.
fn flush(node: &Node, number: usize) -> (Duration, usize) {
    let family = families()[number % 2];
    let start = Instant::now();
    for table in [guard::TABLE, egress::TABLE] {
        delete(Family::Inet, table).unwrap();
    }
    let mut leaked = 0;
    loop {
        node.pod.send(&datagram(family.pod, family.internet, "leak"));
        leaked += node.uplink.sent().iter().filter(|packet| packet.source == family.pod).count();
        // The first that the guard drops or that is masqueraded ends it.
        let back = guard::dropped().unwrap();
        if !back.is_empty() {
            return (start.elapsed(), leaked);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "waited 10 s for the guard to be back");
    }
}

#[test]
fn tables_that_are_deleted_are_put_back_at_once() {
    isolated!(|| {
        let node = Node::guarded();
        let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut rounds = std::thread::scope(|scope| {
            scope.spawn(|| keep(&stop, &ready));
            let deadline = Instant::now() + Duration::from_secs(10);
            while !ready.load(Ordering::SeqCst) {
                assert!(Instant::now() < deadline, "waited 10 s for the monitor");
                std::thread::yield_now();
            }
            let rounds: Vec<_> = (0..ROUNDS).map(|number| flush(&node, number)).collect();
            stop.store(true, Ordering::SeqCst);
            rounds
        });
        rounds.sort_unstable();
        let leaked: usize = rounds.iter().map(|(_, leaked)| leaked).sum();
        let (median, longest) = (rounds[ROUNDS / 2].0, rounds[ROUNDS - 1].0);
        println!(
            "guard back after {median:?} (median of {ROUNDS}, longest {longest:?}); {leaked} packets leaked"
        );
        assert!(median < Duration::from_millis(500), "{median:?}");
        guard::ensure(&guard_config()).unwrap();
        node.sent_anywhere();
        node.pod.send(&datagram(families()[0].pod, families()[0].remote_pod, "inside"));
        assert_eq!(node.uplink.sent(), []);
    });
}
