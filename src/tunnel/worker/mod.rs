//! The thread that joins a TUN queue, the UDP sockets and the device: one epoll loop, batch by batch.
//!
//! A [`Worker`] is a value that owns all it needs; there can be many. Whoever starts one keeps a [`WorkerHandle`].

mod handle;

use tokio::sync::mpsc;

use super::api::Event;
use super::io::tun::TunQueue;
use super::io::udp::UdpSockets;
pub use handle::{CommandSender, Stopped, WorkerHandle};

/// What a worker is made of. It closes its copies of the descriptors when it stops.
#[derive(Debug)]
pub struct Parts {
    /// Its queue.
    pub tun: TunQueue,
    /// Its sockets.
    pub udp: UdpSockets,
    /// MTU of the TUN device, in bytes: packets are padded up to this and no further.
    pub mtu: u16,
    /// Where events go. What does not fit is counted and reported as [`Event::Missed`].
    pub events: mpsc::Sender<Event>,
}

/// Why a worker stopped other than by [`Command::Stop`](super::command::Command::Stop).
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A descriptor or the thread could not be made.
    #[error("starting the tunnel's worker: {what}: {source}")]
    Start {
        /// The step.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The TUN device was deleted, or its queue taken away.
    #[error("the TUN device {name} is gone: {source}; it has to be created again")]
    TunGone {
        /// Its name.
        name: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Waiting failed, which leaves nothing to go on with.
    #[error("waiting for packets: {0}")]
    Wait(std::io::Error),
    /// The thread panicked; the text says why.
    #[error("the tunnel's worker thread panicked: {0}; this is a bug")]
    Panicked(String),
}

/// One data plane: everything that moves packets of one queue.
#[derive(Debug)]
pub struct Worker {
    parts: Parts,
    commands: handle::CommandReceiver,
}

impl Worker {
    /// Starts a worker with an empty configuration on a thread of its own.
    ///
    /// # Errors
    /// [`WorkerError::Start`].
    pub fn spawn(parts: Parts) -> Result<WorkerHandle, WorkerError> {
        WorkerHandle::spawn(format!("worker {}", parts.tun.name()), move |commands| {
            Self { parts, commands }.run()
        })
    }

    fn run(self) -> Result<(), WorkerError> {
        let _ = &self.parts;
        while let Ok(command) = self.commands.receiver.recv() {
            self.commands.acknowledge().map_err(WorkerError::Wait)?;
            if matches!(command, super::command::Command::Stop) {
                break;
            }
        }
        Ok(())
    }
}
