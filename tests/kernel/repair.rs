//! What leaks between somebody's `flush ruleset` and the repair.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use selvedge::kernel::monitor::{ChangeSet, Monitor};
use selvedge::kernel::nft::{Family, tables};
use selvedge::{egress, guard};
use selvedge_lab::isolated;
use selvedge_lab::stop::StopOnDrop;

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
            let is_ours =
                |changes: ChangeSet| changes.has_table(guard::TABLE) || changes.has_table(egress::TABLE);
            if told.is_ok_and(|changes| is_ours(changes.unwrap())) {
                guard::ensure(&guard_config()).unwrap();
                egress::ensure(&egress_config()).unwrap();
            }
        }
    });
}

/// What `nft flush ruleset` sends: one batch with one message, to delete the tables of all families.
fn flush_ruleset(socket: &Socket) {
    const DELETE_TABLE: u16 = 10 << 8 | 2;
    let message = |kind: u16, flags: u16, resource: u16| {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
        bytes.extend([0; 10]);
        bytes.extend(resource.to_be_bytes());
        bytes
    };
    let batch = [message(0x10, 1, 10), message(DELETE_TABLE, 5, 0), message(0x11, 1, 10)].concat();
    socket.send(&batch, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    assert_eq!(answer[16..20], [0; 4], "flush ruleset is refused");
}

/// How one flush went.
struct Round {
    flush: Duration,
    /// From the first leaked packet to the last.
    leaking: Duration,
    sent: usize,
    leaked: usize,
}

/// Flushes the ruleset while packets of the pod to the internet pour in, until both tables are there again.
fn round(node: &Node, socket: &Socket, number: usize) -> Round {
    let family = families()[number % 2];
    let packet = datagram(family.pod, family.internet, "leak");
    let flushed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            let start = Instant::now();
            flush_ruleset(socket);
            flushed.store(true, Ordering::SeqCst);
            start.elapsed()
        });
        let (mut sent, mut leaks) = (0, Vec::new());
        let start = Instant::now();
        loop {
            let over = flushed.load(Ordering::SeqCst) && whole();
            for _ in 0..10 {
                node.pod.send(&packet);
                let leaked = node.uplink.sent().iter().any(|packet| packet.source == family.pod);
                assert!(!(leaked && over), "a packet leaked although both tables were there again");
                leaks.extend(leaked.then(Instant::now));
                sent += 1;
            }
            if over {
                let leaking = leaks.first().zip(leaks.last()).map(|(first, last)| *last - *first);
                let leaking = leaking.unwrap_or_default();
                return Round { flush: flusher.join().unwrap(), leaking, sent, leaked: leaks.len() };
            }
            assert!(start.elapsed() < Duration::from_secs(10), "waited 10 s for the tables to be back");
        }
    })
}

/// Both tables are there.
fn whole() -> bool {
    let tables = tables(Family::Inet).unwrap();
    tables.contains(guard::TABLE) && tables.contains(egress::TABLE)
}

#[test]
fn a_flushed_ruleset_is_put_back_at_once() {
    isolated!(|| {
        let node = Node::guarded();
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut rounds = std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            scope.spawn(|| keep(&stop, &ready));
            let deadline = Instant::now() + Duration::from_secs(10);
            while !ready.load(Ordering::SeqCst) {
                assert!(Instant::now() < deadline, "waited 10 s for the monitor");
                std::thread::yield_now();
            }
            (0..ROUNDS).map(|number| round(&node, &socket, number)).collect::<Vec<_>>()
        });
        rounds.sort_by_key(|round| round.leaking);
        let total = |part: fn(&Round) -> usize| rounds.iter().map(part).sum::<usize>();
        let middle = &rounds[ROUNDS / 2];
        println!(
            "{ROUNDS} flushes: leaking for {:?} (median; longest {:?}) the flush itself takes {:?}; \
             {} of {} packets leaked",
            middle.leaking,
            rounds[ROUNDS - 1].leaking,
            middle.flush,
            total(|round| round.leaked),
            total(|round| round.sent),
        );
        guard::ensure(&guard_config()).unwrap();
        node.sent_anywhere();
        node.pod.send(&datagram(families()[0].pod, families()[0].remote_pod, "inside"));
        assert_eq!(node.uplink.sent(), []);
    });
}
