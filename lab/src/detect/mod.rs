//! Finds what must never be on an underlay: a frame that names a pod or Service address in any IP header, however
//! deep, or that carries the payload's canary.
//!
//! Pure: bytes in, sighting out. Two looks at every frame: one parses the layers it knows ([`layers`]), the other
//! searches all of it for the canary and for plausible IP headers at any offset ([`search`]), so that an encapsulation
//! which nobody thought of is found as well.
//!
//! # False alarms
//!
//! Ciphertext is random bytes, and random bytes look like an IPv4 header now and then: 0x45 (2^-8), one of 17 protocols
//! (17 * 2^-8) and a right checksum (2^-16). With an address of two ranges of 2^16 addresses as source or destination
//! (2^-14) that is once in 4 * 10^12 offsets, and a run of all tests captures some 10^10. So where ciphertext may be
//! ([`opaque`]) a header is only a look-alike, and whoever judges it ([`Sighting::is_leak`]) believes it if it
//!
//! - announces a packet that fits: it ends before its WireGuard message or the frame ends, and has at most 2048 bytes
//!   (2^-5), and
//! - names an address that somebody of the cluster has or had ([`Given`]): 2 * G * 2^-32 for G such addresses.
//!
//! That is 6 * 10^-20 * G for each offset, 6 * 10^-10 * G for 10^10 of them, and below 10^-6 for up to 1,700 addresses; a
//! lab assigns a few dozen, and a real Kubernetes with three nodes 768 and its Services (5 * 10^-7). An IPv6 header in
//! ciphertext has a prefix of 56 bits to meet and counts for nothing. A test measures the filter, relaxed, against the same
//! formula.
//!
//! A look-alike that fits and names nobody is met in one run of 10,000 (7 * 10^-15 for each offset). Several of them on one
//! link are no chance any more, and are leaks: see [`capture`](crate::capture).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use memchr::memmem::Finder;

use opaque::Opaque;
use search::{Filter, Header};

mod given;
mod layers;
mod opaque;
mod search;

pub use given::Given;

/// Shortest IPv6 prefix that is searched for at any offset; a shorter one would be in random bytes too often.
const SHORTEST_SEARCHED: u8 = 32;

/// What of the cluster was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// An address of the pod ranges.
    Pod,
    /// An address of the Service ranges.
    Service,
    /// The canary in a payload.
    Canary,
}

/// One thing that must not be in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// The address, when it is one.
    pub address: Option<IpAddr>,
    /// The layers it was found behind, outermost first, as `IPv4 > ICMP quote > IPv4 source`.
    pub place: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.what, self.address) {
            (What::Canary, _) => write!(f, "canary in {}", self.place),
            (What::Pod, Some(address)) => write!(f, "pod address {address} in {}", self.place),
            (_, Some(address)) => write!(f, "Service address {address} in {}", self.place),
            (_, None) => write!(f, "{}", self.place),
        }
    }
}

/// What was seen in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// It must not be there.
    Leak(Finding),
    /// IP headers where ciphertext may be, with each address of the cluster that they name, at least one.
    Lookalike(Vec<Finding>),
}

impl Sighting {
    /// Whether it is a leak in a cluster that has given away these addresses.
    #[must_use]
    pub fn is_leak(&self, given: &Given) -> bool {
        match self {
            Self::Leak(_) => true,
            Self::Lookalike(named) => {
                named.iter().any(|finding| finding.address.is_some_and(|a| given.holds(a)))
            }
        }
    }

    /// What to show of it: an address that was given away, if there is one.
    #[must_use]
    pub fn into_finding(self, given: &Given) -> Option<Finding> {
        match self {
            Self::Leak(finding) => Some(finding),
            Self::Lookalike(mut named) => {
                let at = named.iter().position(|finding| finding.address.is_some_and(|a| given.holds(a)));
                (!named.is_empty()).then(|| named.swap_remove(at.unwrap_or(0)))
            }
        }
    }
}

/// The addresses of a cluster and the canary that its payloads carry.
#[derive(Debug, Clone)]
pub struct Detector {
    ranges: Ranges,
    canary: Finder<'static>,
    searched: Vec<Finder<'static>>,
    trusted: Vec<IpAddr>,
}

impl Detector {
    /// A detector for the pod ranges, the Service ranges and a canary, which must not be empty.
    #[must_use]
    pub fn new(pods: &[IpNet], services: &[IpNet], canary: &[u8]) -> Self {
        let searched = pods.iter().chain(services).filter_map(|range| match range {
            IpNet::V6(range) if range.prefix_len() >= SHORTEST_SEARCHED => {
                let bytes = usize::from(range.prefix_len() / 8);
                Some(Finder::new(&range.network().octets()[..bytes]).into_owned())
            }
            _ => None,
        });
        Self {
            searched: searched.collect(),
            ranges: Ranges { pods: pods.to_vec(), services: services.to_vec() },
            canary: Finder::new(canary).into_owned(),
            trusted: Vec::new(),
        }
    }

    /// Lets packets between pods and these addresses pass: nothing but plain IP, from end to end.
    #[must_use]
    pub fn trusting(self, trusted: Vec<IpAddr>) -> Self {
        Self { trusted, ..self }
    }

    /// The first thing in an Ethernet frame that must not be there.
    #[must_use]
    pub fn inspect(&self, frame: &[u8]) -> Option<Sighting> {
        if self.is_trusted(frame) {
            return None;
        }
        let certain = layers::ethernet(frame, &self.ranges).or_else(|| self.find_canary(frame));
        certain.map(Sighting::Leak).or_else(|| self.find_headers(frame, &Filter::USED))
    }

    /// Whether it is an IP packet between a pod and a trusted address.
    fn is_trusted(&self, frame: &[u8]) -> bool {
        if self.trusted.is_empty() {
            return false;
        }
        layers::ends(frame).is_some_and(|[from, to]| {
            let trusts = |pod: IpAddr, other: &IpAddr| {
                self.ranges.kind(pod) == Some(What::Pod) && self.trusted.contains(other)
            };
            trusts(from, &to) || trusts(to, &from)
        })
    }

    fn find_canary(&self, frame: &[u8]) -> Option<Finding> {
        let at = self.canary.find(frame)?;
        Some(Finding { what: What::Canary, address: None, place: format!("the frame at byte {at}") })
    }

    /// Looks for IP headers at every offset. Those in the clear count before those in what may be ciphertext.
    fn find_headers(&self, frame: &[u8], filter: &Filter) -> Option<Sighting> {
        let ipv4 = search::ipv4(frame, &self.ranges, filter);
        let headers: Vec<Header> = ipv4.chain(search::ipv6(frame, &self.ranges, &self.searched)).collect();
        if headers.is_empty() {
            return None;
        }
        let Some(opaque) = Opaque::of(frame) else {
            return headers[0].findings("").next().map(Sighting::Leak);
        };
        let clear = headers.iter().find(|header| header.end <= opaque.start);
        if let Some(leak) = clear.and_then(|header| header.findings("").next()) {
            return Some(Sighting::Leak(leak));
        }
        let fitting = headers.iter().filter(|header| header.fits(opaque.end(frame, header.start), filter));
        let named: Vec<_> =
            fitting.flat_map(|header| header.findings(", where ciphertext should be")).collect();
        (!named.is_empty()).then_some(Sighting::Lookalike(named))
    }
}

impl Header {
    fn findings(&self, where_else: &str) -> impl Iterator<Item = Finding> {
        let place = format!("an {} header at byte {}{where_else}", self.family, self.start);
        self.named.iter().map(move |(what, address)| Finding {
            what: *what,
            address: Some(*address),
            place: place.clone(),
        })
    }
}

/// The address ranges of a cluster.
#[derive(Debug, Clone)]
struct Ranges {
    pods: Vec<IpNet>,
    services: Vec<IpNet>,
}

impl Ranges {
    fn kind(&self, address: IpAddr) -> Option<What> {
        let address = unmapped(address);
        let holds = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        if holds(&self.pods) { Some(What::Pod) } else { holds(&self.services).then_some(What::Service) }
    }
}

/// IPv4 addresses inside IPv6 ones (RFC 4291 2.5.5, 6to4, NAT64) count as themselves.
fn unmapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let o = v6.octets();
    let inner = |i: usize| IpAddr::from(Ipv4Addr::new(o[i], o[i + 1], o[i + 2], o[i + 3]));
    match o {
        _ if v6.to_ipv4_mapped().is_some() => inner(12),
        [0x20, 0x02, ..] => inner(2),
        [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, ..] => inner(12),
        _ => IpAddr::V6(Ipv6Addr::from(o)),
    }
}

#[cfg(test)]
mod tests;
