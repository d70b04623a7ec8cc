//! What the kubelets of all Nodes write while nothing happens: each updates the status of its Node once per period, spread
//! evenly over the period.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::object;
use crate::api::Store;
use crate::api::resource::NODES;

/// Time within which the thread notices that it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// A thread that writes heartbeats until this is dropped.
pub(super) struct Heartbeats {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeats {
    /// Writes one heartbeat per `period` for each Node in `names`.
    pub(super) fn start(store: Arc<Store>, names: Vec<String>, period: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || beat(&store, &names, period, &stopped));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn beat(store: &Store, names: &[String], period: Duration, stop: &AtomicBool) {
    let interval = period / u32::try_from(names.len()).unwrap_or(u32::MAX).max(1);
    let mut due = Instant::now();
    for name in names.iter().cycle() {
        due += interval;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            if stop.load(Ordering::Acquire) {
                return;
            }
            std::thread::sleep(left.min(TICK));
        }
        let at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if let Err(failure) = store.modify(&NODES, "", name, |node| Ok(object::beat(node, &at))) {
            tracing::warn!(node = name, %failure, "a heartbeat could not be stored");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::scale::member::Member;

    #[test]
    fn every_node_gets_a_heartbeat() {
        let store = Store::new(100);
        let members: Vec<Member> = (0..3).map(Member::new).collect();
        for member in &members {
            store.create(&NODES, object::node(member)).unwrap();
        }
        let version = store.version();
        let names = members.iter().map(|member| member.name.clone()).collect();
        let beats = Heartbeats::start(store.clone(), names, Duration::from_millis(60));
        let all = || store.version() >= version + 3;
        crate::process::wait_for("three heartbeats", Duration::from_secs(10), all).unwrap();
        drop(beats);
        for member in &members {
            let node = store.get(&NODES, "", &member.name).unwrap();
            assert_ne!(node["status"]["conditions"][0]["lastHeartbeatTime"], object::EPOCH);
            assert_eq!(node["metadata"]["annotations"], object::node(member)["metadata"]["annotations"]);
        }
    }
}
