//! Counts frames on a link that a test picks: those that the lab's leak detector has no reason to mind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge_lab::wire::Wire;

const LOOK: Duration = Duration::from_millis(50);

/// A running count.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Counts the frames on `device` of `ns` that `wanted` picks.
    pub(crate) fn start(ns: &NetNs, device: &str, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        let wire = Wire::open(ns, device).unwrap();
        let (seen, stop) = (Arc::<Mutex<Vec<Instant>>>::default(), Arc::new(AtomicBool::new(false)));
        let (seeing, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A device that goes down is an error once.
                let Ok(Some(_)) = wire.find(Instant::now() + LOOK, &wanted) else { continue };
                seeing.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// When each of them came.
    pub(crate) fn times(&self) -> Vec<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many came after `then`.
    pub(crate) fn since(&self, then: Instant) -> usize {
        self.times().iter().filter(|time| **time > then).count()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Whether a frame has these bytes in it.
pub(crate) fn holds(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|part| part == bytes)
}
