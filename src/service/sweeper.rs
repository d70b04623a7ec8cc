//! Has the kernel forget stale connections, on a thread of its own: listing many takes time, and endpoints do not wait.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::stale::Stale;
use crate::kernel::conntrack;
use crate::kernel::protocol::Protocol;

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// It rests for so many times as long as it has worked.
const REST: u32 = 9;

/// The thread, in the network namespace of the one that started it. It ends when this is dropped.
#[derive(Debug)]
pub struct Sweeper {
    work: Sender<Stale>,
}

impl Sweeper {
    /// Starts it.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start() -> std::io::Result<Self> {
        let (work, received) = mpsc::channel();
        std::thread::Builder::new().name("connections".into()).spawn(move || run(&received))?;
        Ok(Self { work })
    }

    /// Has these connections forgotten.
    pub fn sweep(&self, stale: Stale) {
        if !stale.is_empty() {
            let _ = self.work.send(stale);
        }
    }
}

fn run(received: &Receiver<Stale>) {
    while let Ok(mut stale) = received.recv() {
        loop {
            // What has come meanwhile goes with it.
            received.try_iter().for_each(|later| stale.extend(later));
            let start = Instant::now();
            let rest = match conntrack::forget(Protocol::Udp, |connection| stale.has(connection)) {
                Ok(forgotten) => {
                    if forgotten > 0 {
                        tracing::info!(forgotten, "connections to endpoints that no longer serve");
                    }
                    stale = Stale::default();
                    start.elapsed() * REST
                }
                Err(error) => {
                    tracing::warn!(%error, "connections to endpoints that no longer serve stay");
                    RETRY
                }
            };
            std::thread::sleep(rest);
            if stale.is_empty() {
                break;
            }
        }
    }
}
