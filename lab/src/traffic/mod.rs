//! Tools that make traffic and say what became of it. Sockets are made inside a namespace and used from outside,
//! so no tool is a process of its own.
//!
//! Every payload carries the lab's [`Canary`]: on an underlay it must be seen nowhere.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use selvedge::kernel::netns::{self, NetNs};
use socket2::{Domain, Protocol, Socket, Type};

mod client;
mod echo;
mod ping;
mod probe;
mod server;

pub use client::{Answer, BURST, Bulk, Rate, ask, ask_udp, download, throughput, upload};
pub use ping::{Ping, PingReport};
pub use probe::{Probe, path_mtu, probe};
pub use server::{Server, Told};

/// How long one exchange may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// What went wrong with traffic.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// A socket failed.
    #[error("{what}: {source}")]
    Socket {
        /// What was being done, with whom.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// An answer came that is none.
    #[error("{from} answered what is no answer: {text}")]
    Answer {
        /// Who answered.
        from: SocketAddr,
        /// The beginning of it.
        text: String,
    },
}

impl Error {
    /// Whether it is that nothing came in time, or that the kernel knew no way.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        use io::ErrorKind as Kind;
        match self {
            Self::Socket { source, .. } => matches!(
                source.kind(),
                Kind::TimedOut
                    | Kind::WouldBlock
                    | Kind::HostUnreachable
                    | Kind::NetworkUnreachable
                    | Kind::PermissionDenied
                    | Kind::AddrNotAvailable
            ),
            _ => false,
        }
    }
}

pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    move |source| {
        // What a socket says when its timeout has passed is no help.
        let source = match source.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
            _ => source,
        };
        Error::Socket { what: what.into(), source }
    }
}

/// Bytes that only the lab's payloads carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary([u8; Canary::LENGTH]);

impl Canary {
    /// Bytes of a canary.
    pub const LENGTH: usize = 32;

    /// A new one, unlike any other.
    pub fn random() -> io::Result<Self> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let text = format!("selvedge-canary-{:016x}", u64::from_be_bytes(random));
        text.into_bytes().try_into().map(Self).map_err(|_| io::Error::other("a canary has 32 bytes"))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `length` bytes that begin with the canary as often as it fits.
    #[must_use]
    pub fn fill(&self, length: usize) -> Vec<u8> {
        self.0.iter().copied().cycle().take(length).collect()
    }
}

/// A socket for talking to `peer`, made in `ns`.
pub(crate) fn socket(
    ns: &NetNs,
    peer: SocketAddr,
    kind: Type,
    protocol: Option<Protocol>,
) -> Result<Socket, Error> {
    let domain = Domain::for_address(peer);
    let made = ns.run(|| Socket::new(domain, kind, protocol))?;
    made.map_err(failed(format!("make a socket for {peer}")))
}

#[cfg(test)]
mod tests;
