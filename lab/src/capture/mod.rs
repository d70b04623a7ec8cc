//! Captures every frame on the underlay's links, from the router's side, and has each looked at by a
//! [`Detector`] as it comes. Nothing is stored but counts and the first few leaks and look-alikes, so memory is bounded.
//!
//! A look-alike (see [`detect`](crate::detect)) is judged when somebody asks what was seen, because a pod may send before
//! the lab knows its address. One that names an address which was given away is a leak. Of the others one link may have
//! seen [`BY_CHANCE`]: one, and the ICMP error that quotes it. More of them are leaks.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::{self, NetNs};

use crate::detect::{Detector, Finding, Given, Sighting};

mod control;
mod ring;

pub use control::Samples;

const LOOK_AGAIN: Duration = Duration::from_millis(20);
const SETTLE: Duration = Duration::from_secs(20);
/// So many leaks of a link are kept to be shown, and so many bytes of each.
const EXAMPLES: usize = 8;
const SHOWN: usize = 96;
/// Look-alikes that name nobody's address and are not leaks yet. Two that are independent are met in one run of 10^8.
const BY_CHANCE: usize = 2;
/// So many look-alikes of a link are kept to be judged; what comes after them is a leak.
const LOOKALIKES: usize = 64;

/// What went wrong with a capture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The device could not be captured.
    #[error("capture {link}: {source}")]
    Link {
        /// The link.
        link: String,
        /// Why.
        source: io::Error,
    },
    /// The thread that looks at the frames fell behind or failed.
    #[error("capture {0}: frames were still not looked at after {SETTLE:?}")]
    Unsettled(String),
}

/// A leaked frame.
#[derive(Debug, Clone)]
pub struct Leak {
    /// What is in it.
    pub finding: Finding,
    /// How the frame begins.
    pub head: Vec<u8>,
}

/// What was seen on one link so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Name of the link.
    pub link: String,
    /// Frames looked at.
    pub frames: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Frames that the kernel dropped because we were too slow.
    pub drops: u64,
    /// Frames with something in them that must not be there.
    pub leaks: u64,
    /// The first of them.
    pub examples: Vec<Leak>,
    /// Frames whose ciphertext looks like a header that names nobody's address; so few that it is chance.
    pub lookalikes: usize,
    /// Frames planted to show that the detector sees them.
    pub planted: usize,
    /// How many of those it found.
    pub found: usize,
}

/// A running capture of several links.
#[derive(Debug)]
pub struct Capture {
    detector: Arc<Detector>,
    given: Given,
    headers_only: Option<u16>,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    asked: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    answered: u64,
    planted: Vec<Vec<u8>>,
    lookalikes: Vec<Suspect>,
}

/// A frame that is to be judged.
#[derive(Debug, Clone)]
struct Suspect {
    sighting: Sighting,
    head: Vec<u8>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Capture {
    /// A capture of no link yet. Of TCP segments from or to port `headers_only` only the headers are looked at:
    /// for a flow that is meant to be plaintext and as fast as the machine can.
    #[must_use]
    pub fn new(detector: Detector, headers_only: Option<u16>) -> Self {
        Self { detector: Arc::new(detector), given: Given::default(), headers_only, links: Vec::new() }
    }

    /// The addresses that were given to pods, Services and gateways; whoever assigns one adds it.
    #[must_use]
    pub fn given(&self) -> &Given {
        &self.given
    }

    /// Captures the device `name` of `ns` as well, from now on, with so many MiB of buffer.
    pub fn add(&mut self, ns: &NetNs, name: &str, buffer: usize) -> Result<(), Error> {
        let failed = |source| Error::Link { link: name.to_owned(), source };
        let port = self.headers_only;
        let ring = ns
            .run(|| ring::Ring::open(nix::net::if_::if_nametoindex(name)?, buffer, port))?
            .map_err(failed)?;
        let shared = Arc::new(Shared::default());
        shared.state().seen.link = name.to_owned();
        let (detector, given) = (self.detector.clone(), self.given.clone());
        let mut worker = Worker { ring, detector, given, shared: shared.clone(), looked_at: 0, total: 0 };
        let thread = std::thread::Builder::new()
            .name(format!("capture-{name}"))
            .spawn(move || worker.run())
            .map_err(failed)?;
        self.links.push(Link { shared, thread: Some(thread) });
        Ok(())
    }

    /// Sends frames that must be found from the device `device` of `ns`, the far end of the link `link`.
    pub fn plant(&self, link: &str, ns: &NetNs, device: &str, samples: &Samples) -> Result<(), Error> {
        let failed = |source| Error::Link { link: link.to_owned(), source };
        let frames = samples.frames().map_err(failed)?;
        if let Some(link) = self.link(link) {
            let mut state = link.shared.state();
            state.seen.planted += frames.len();
            state.planted.extend(frames.iter().cloned());
        }
        let socket: OwnedFd =
            ns.run(|| ring::sender(nix::net::if_::if_nametoindex(device)?))?.map_err(failed)?;
        for frame in &frames {
            nix::unistd::write(&socket, frame).map_err(|errno| failed(errno.into()))?;
        }
        Ok(())
    }

    /// What was seen, after every frame that had come before this call was looked at.
    pub fn seen(&self) -> Result<Vec<Seen>, Error> {
        let asked: Vec<u64> =
            self.links.iter().map(|link| link.shared.asked.fetch_add(1, Ordering::AcqRel) + 1).collect();
        let deadline = Instant::now() + SETTLE;
        let seen = self.links.iter().zip(asked);
        seen.map(|(link, asked)| link.shared.wait(asked, deadline, &self.given)).collect()
    }

    /// Leaks over all links, after every frame that had come before this call was looked at.
    pub fn leaks(&self) -> Result<u64, Error> {
        Ok(self.seen()?.iter().map(|seen| seen.leaks).sum())
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.shared.state().seen.link == name)
    }
}

impl Shared {
    fn wait(&self, asked: u64, deadline: Instant, given: &Given) -> Result<Seen, Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.state(), left, |state| state.answered < asked);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        match timeout.timed_out() {
            true => Err(Error::Unsettled(state.seen.link.clone())),
            false => Ok(state.judged(given)),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        for link in &self.links {
            link.shared.stop.store(true, Ordering::Release);
        }
        for thread in self.links.iter_mut().filter_map(|link| link.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// The thread that looks at the frames of one link.
struct Worker {
    ring: ring::Ring,
    detector: Arc<Detector>,
    given: Given,
    shared: Arc<Shared>,
    looked_at: u64,
    total: u64,
}

impl Worker {
    fn run(&mut self) -> io::Result<()> {
        while !self.shared.stop.load(Ordering::Acquire) {
            let asked = self.shared.asked.load(Ordering::Acquire);
            let counters = self.ring.counters()?;
            self.total += counters.frames - counters.drops;
            self.shared.state().seen.drops += counters.drops;
            let goal = self.total;
            while self.looked_at < goal && !self.shared.stop.load(Ordering::Acquire) {
                self.look(LOOK_AGAIN)?;
            }
            self.shared.state().answered = asked;
            self.shared.changed.notify_all();
            self.look(LOOK_AGAIN)?;
        }
        Ok(())
    }

    fn look(&mut self, wait: Duration) -> io::Result<()> {
        let (detector, given, shared) = (&self.detector, &self.given, &self.shared);
        let (mut frames, mut bytes) = (0, 0);
        self.ring.block(wait, &mut |frame| {
            frames += 1;
            bytes += frame.length as u64;
            if let Some(sighting) = detector.inspect(frame.bytes) {
                shared.state().found(sighting, frame.bytes, given);
            }
        })?;
        self.looked_at += frames;
        let mut state = self.shared.state();
        state.seen.frames += frames;
        state.seen.bytes += bytes;
        Ok(())
    }
}

impl State {
    fn found(&mut self, sighting: Sighting, frame: &[u8], given: &Given) {
        if let Some(at) = self.planted.iter().position(|planted| planted == frame) {
            self.planted.swap_remove(at);
            self.seen.found += usize::from(sighting.is_leak(given));
            return;
        }
        let head = frame[..frame.len().min(SHOWN)].to_vec();
        let suspect = Suspect { sighting, head };
        match suspect.sighting {
            Sighting::Lookalike(_) if self.lookalikes.len() < LOOKALIKES => self.lookalikes.push(suspect),
            _ => self.seen.add(suspect, given),
        }
    }

    /// What was seen, with the look-alikes judged by the addresses that were given away until now.
    fn judged(&self, given: &Given) -> Seen {
        let mut seen = self.seen.clone();
        let (leaks, chance): (Vec<_>, Vec<_>) =
            self.lookalikes.iter().cloned().partition(|suspect| suspect.sighting.is_leak(given));
        leaks.into_iter().for_each(|suspect| seen.add(suspect, given));
        if chance.len() <= BY_CHANCE {
            seen.lookalikes = chance.len();
        } else {
            chance.into_iter().for_each(|suspect| seen.add(suspect, given));
        }
        seen
    }
}

impl Seen {
    fn add(&mut self, leak: Suspect, given: &Given) {
        self.leaks += 1;
        if self.examples.len() < EXAMPLES
            && let Some(finding) = leak.sighting.into_finding(given)
        {
            self.examples.push(Leak { finding, head: leak.head });
        }
    }
}

/// One address of each family and range, to plant frames with.
fn pick(addresses: &[IpAddr], v6: bool) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv6() == v6)
}

#[cfg(test)]
mod tests;
