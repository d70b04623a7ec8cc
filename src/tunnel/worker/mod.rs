//! The thread that joins a TUN queue, the UDP sockets and the device: one epoll loop, batch by batch.
//!
//! A [`Worker`] is a value that owns all it needs; there can be many. Whoever starts one keeps a [`WorkerHandle`].

mod command;
mod events;
mod handle;
mod inbound;
mod interest;
mod outbound;
mod report;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::device::{Device, DeviceEvent};
use super::handover::{Inheritance, Message, Outcome, Predecessor, Reads, Received, Role, Signal, Successor};
use super::io::tun::TunQueue;
use super::io::udp::Datagrams;
use super::io::udp::{UdpSocket, UdpSockets};
pub use command::Command;
use events::Events;
use handle::CommandReceiver;
pub use handle::{CommandSender, Stopped, WorkerHandle};
use inbound::Inbound;
use interest::{Interest, Ready};
use outbound::{Outbound, Turn, Way};
pub use report::{Offloads, WorkerReport};

/// Hand-over messages handled in one loop iteration, so that packets are not held up.
const MESSAGES: usize = 64;

/// What a worker is made of. It closes its copies of the descriptors when it stops.
#[derive(Debug)]
pub struct Parts {
    /// Its queue.
    pub tun: TunQueue,
    /// Its sockets.
    pub udp: UdpSockets,
    /// MTU of the TUN device at the start, in bytes: packets are padded up to this and no further. [`Command::Mtu`]
    /// changes it.
    pub mtu: u16,
    /// Where events go. Without room there they stay in the device; what does not fit there either is counted and reported
    /// as [`DeviceEvent::Missed`].
    pub events: mpsc::Sender<DeviceEvent>,
    /// Present if another worker has the device now, and hands it over.
    pub inheritance: Option<Inheritance>,
}

/// Why a worker stopped other than by [`Command::Stop`].
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A descriptor or the thread could not be made.
    #[error("starting the tunnel's worker: {what}: {source}")]
    Start {
        /// The step.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The TUN device was deleted, or its queue taken away.
    #[error("the TUN device {name} is gone: {source}; it has to be created again")]
    TunGone {
        /// Its name.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// Waiting failed, which leaves nothing to go on with.
    #[error("waiting for packets: {0}")]
    Wait(io::Error),
    /// The thread panicked; the text says why.
    #[error("the tunnel's worker thread panicked: {0}; this is a bug")]
    Panicked(String),
}

/// One data plane: everything that moves packets of one queue.
#[derive(Debug)]
pub struct Worker {
    tun: TunQueue,
    udp: UdpSockets,
    device: Device,
    inbound: Inbound,
    outbound: Outbound,
    events: Events,
    commands: CommandReceiver,
    interest: Interest,
    role: Role,
    /// What the last wait was for.
    waited_for: (Reads, Option<SocketAddr>),
    faults: Faults,
}

impl Worker {
    /// Starts a worker with an empty configuration on a thread of its own.
    ///
    /// # Errors
    /// [`WorkerError::Start`].
    pub fn spawn(parts: Parts) -> Result<WorkerHandle, WorkerError> {
        let name = format!("tunnel {}", parts.tun.name());
        WorkerHandle::spawn(name, move |commands| Self::new(parts, commands)?.run())
    }

    fn new(parts: Parts, commands: CommandReceiver) -> Result<Self, WorkerError> {
        let Parts { tun, udp, mtu, events, inheritance } = parts;
        let now = Instant::now();
        let mut role =
            inheritance.map_or(Role::Alone, |inheritance| Role::Successor(Successor::new(inheritance, now)));
        let waited_for = (role.reads(), None);
        let interest = interest(&mut role, waited_for, (&tun, &udp), &commands)
            .map_err(|source| WorkerError::Start { what: "epoll", source })?;
        Ok(Self {
            device: Device::new(mtu, now),
            inbound: Inbound::new(&tun),
            outbound: Outbound::new(now),
            events: Events::new(events),
            faults: Faults::default(),
            role,
            waited_for,
            tun,
            udp,
            commands,
            interest,
        })
    }

    fn run(mut self) -> Result<(), WorkerError> {
        loop {
            let ready = self.interest.wait(self.deadline()).map_err(WorkerError::Wait)?;
            let now = Instant::now();
            if ready.commands && !self.obey(now)? {
                return Ok(());
            }
            if !matches!(self.role, Role::Alone) && self.hand_over(now) {
                return Ok(());
            }
            if !self.role.must_wait() {
                self.device.handle_timeout(now);
            }
            self.receive(ready, now);
            self.send(ready, now)?;
            if self.device.has_events() {
                self.events.pass_on(|| self.device.poll_event());
            }
            self.faults.pause();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let device = self.device.poll_timeout().filter(|_| !self.role.must_wait());
        let others = [self.outbound.deadline(), self.role.deadline(), self.events.deadline()];
        others.into_iter().chain([device]).flatten().min()
    }

    /// Carries out all commands; false if one of them is to stop.
    fn obey(&mut self, now: Instant) -> Result<bool, WorkerError> {
        self.commands.acknowledge().map_err(WorkerError::Wait)?;
        loop {
            match self.commands.receiver.try_recv() {
                // Whoever asked may not wait for the answer any more.
                Ok(Command::Apply { config, reply }) => {
                    drop(reply.send(self.device.apply(&config, now)));
                    if let Some(successor) = self.role.successor() {
                        successor.is_configured = true;
                    }
                }
                Ok(Command::Mtu(mtu)) => self.device.set_mtu(mtu),
                Ok(Command::Leave { link, outcome }) => self.leave(link, outcome)?,
                Ok(Command::Report { reply }) => drop(reply.send(self.report(now))),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Ok(false),
                Err(TryRecvError::Empty) => return Ok(true),
            }
        }
    }

    fn report(&self, now: Instant) -> WorkerReport {
        let mut device = self.device.report(now, Timestamp::now());
        let writer = self.inbound.writer();
        device.counters.send_errors += writer.lost();
        let offload = self.tun.offload();
        let offloads = Offloads {
            tun_tso: offload.tso,
            tun_uso: offload.uso,
            udp_gso: self.udp.all().all(UdpSocket::gso),
            udp_gro: self.udp.all().all(UdpSocket::gro),
        };
        WorkerReport { device, offloads, joins: writer.joins(), resent: writer.resent() }
    }

    fn receive(&mut self, ready: Ready, now: Instant) {
        for (socket, ready) in [(Some(self.udp.v4()), ready.v4), (self.udp.v6(), ready.v6)] {
            let Some(socket) = socket.filter(|_| ready) else { continue };
            let successor = self.role.successor();
            let turn = self.inbound.turn(socket, &self.tun, &mut self.device, successor, now);
            self.faults.note("receiving from UDP", turn);
        }
    }

    fn send(&mut self, ready: Ready, now: Instant) -> Result<(), WorkerError> {
        let (tun, udp, device) = (&self.tun, &mut self.udp, &mut self.device);
        let mut way = Way { tun, udp, device, now };
        let free = self.outbound.resume(&mut way);
        self.outbound.transmit(&mut way);
        let turn = if ready.tun && free && self.role.reads().tun {
            self.outbound.turn(&mut way)
        } else {
            Turn::Done
        };
        self.outbound.transmit(&mut way); // handshakes that the packets asked for
        self.outbound.send(&mut way);
        match turn {
            Turn::ReadFailed(source) if is_gone(&source) => {
                return Err(WorkerError::TunGone { name: self.tun.name().to_owned(), source });
            }
            Turn::ReadFailed(error) => self.faults.note("reading from the TUN", Err(error)),
            Turn::Done => {}
        }
        let wait_for = (self.role.reads(), self.outbound.waits_for());
        if wait_for != self.waited_for {
            self.interest.set(wait_for.0, wait_for.1, &self.tun, &self.udp).map_err(WorkerError::Wait)?;
            self.waited_for = wait_for;
        }
        Ok(())
    }

    /// Starts to hand over to the worker at the other end of `link`.
    fn leave(&mut self, link: OwnedFd, outcome: oneshot::Sender<Outcome>) -> Result<(), WorkerError> {
        if matches!(self.role, Role::Alone) {
            let predecessor = Predecessor::new(link, outcome);
            self.interest.add_link(&predecessor.link).map_err(WorkerError::Wait)?;
            self.role = Role::Predecessor(predecessor);
        }
        Ok(())
    }

    /// Runs the hand-over: handles what the other worker sent and starts the next step when it is due. True if the other
    /// worker has the device now.
    fn hand_over(&mut self, now: Instant) -> bool {
        for _ in 0..MESSAGES {
            let (tun, udp, device) = (&self.tun, &mut self.udp, &mut self.device);
            let Some(link) = self.role.link() else { return false };
            let signal = match link.receive() {
                Received::Nothing => break,
                Received::Unknown => continue,
                Received::Message(Message::Packet(packet)) => {
                    self.outbound.forward_plain(packet, &mut Way { tun, udp, device, now });
                    continue;
                }
                Received::Message(Message::Datagrams { from, segment, bytes }) => {
                    let handed = Datagrams { from: from.into(), len: bytes.len(), segment: segment.into() };
                    self.inbound.take_back(handed, bytes, tun, device, now);
                    continue;
                }
                Received::Message(Message::Signal(signal)) => Some(signal),
                Received::Closed => None,
            };
            let before = std::mem::replace(&mut self.role, Role::Alone);
            self.role = match (before, signal) {
                (Role::Predecessor(predecessor), Some(Signal::Done)) => {
                    predecessor.end(Outcome::Left);
                    return true;
                }
                (before, Some(signal)) => before.take(signal, device, now),
                (before, None) => before.end(device, now),
            };
        }
        let is_free = self.outbound.waits_for().is_none();
        self.role.advance(&mut self.device, is_free, now);
        false
    }
}

/// Waits for what `role` wants.
fn interest(
    role: &mut Role,
    (reads, batch_to): (Reads, Option<SocketAddr>),
    (tun, udp): (&TunQueue, &UdpSockets),
    commands: &CommandReceiver,
) -> io::Result<Interest> {
    let interest = Interest::new(tun, udp, &commands.wake)?;
    interest.set(reads, batch_to, tun, udp)?;
    if let Some(link) = role.link() {
        interest.add_link(link)?;
    }
    Ok(interest)
}

/// Whether the queue is no longer that of a device.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV | libc::ENXIO))
}

/// Errors that a descriptor gives instead of packets. They pass; one that does not must not take a whole core.
#[derive(Debug, Default)]
struct Faults {
    in_row: u32,
    /// There was one in this turn.
    noted: bool,
}

impl Faults {
    /// In a row, until it is taken slowly.
    const MANY: u32 = 32;
    const PAUSE: Duration = Duration::from_millis(20);

    fn note(&mut self, what: &str, result: io::Result<()>) {
        let Err(error) = result else { return };
        self.noted = true;
        if self.in_row == Self::MANY {
            tracing::warn!(%error, what, "this goes on and on; trying more slowly");
        }
    }

    fn pause(&mut self) {
        self.in_row = if std::mem::take(&mut self.noted) { self.in_row.saturating_add(1) } else { 0 };
        if self.in_row > Self::MANY {
            std::thread::sleep(Self::PAUSE);
        }
    }
}

#[cfg(test)]
mod tests;
