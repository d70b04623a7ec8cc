//! Finds what must never be on an underlay: a frame that names a pod or Service address in any IP header, however
//! deep, or that carries the payload's canary.
//!
//! Pure: bytes in, finding out. Two looks at every frame: one parses the layers it knows ([`layers`]), the other
//! searches all of it for the canary and for plausible IP headers at any offset, so that an encapsulation which
//! nobody thought of is found as well.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use memchr::memmem::Finder;

mod layers;

/// Shortest IPv6 prefix that is searched for at any offset; a shorter one would be in random bytes too often.
const SHORTEST_SEARCHED: u8 = 32;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Upper-layer protocols that a header found at a random offset must name to be believed.
const PLAUSIBLE: [u8; 17] = [0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 103, 132];

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
    pub fn inspect(&self, frame: &[u8]) -> Option<Finding> {
        if self.is_trusted(frame) {
            return None;
        }
        layers::ethernet(frame, &self.ranges)
            .or_else(|| self.find_canary(frame))
            .or_else(|| self.find_ipv4(frame))
            .or_else(|| self.find_ipv6(frame))
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

    /// Looks for IPv4 headers without options at every offset; only one whose checksum is right counts.
    fn find_ipv4(&self, frame: &[u8]) -> Option<Finding> {
        let last = frame.len().checked_sub(IPV4_HEADER)?;
        memchr::memchr_iter(0x45, &frame[..=last]).find_map(|at| {
            let header = &frame[at..at + IPV4_HEADER];
            let addresses = [12, 16].map(|i| {
                let octets: [u8; 4] = header[i..i + 4].try_into().expect("four bytes of a header of twenty");
                IpAddr::from(octets)
            });
            let (what, address) = addresses.into_iter().find_map(|a| self.ranges.kind(a).map(|w| (w, a)))?;
            (PLAUSIBLE.contains(&header[9]) && checksum_is_right(header))
                .then(|| anywhere("IPv4", at, what, address))
        })
    }

    /// Looks for the cluster's IPv6 prefixes at every offset, where a plausible header would hold them.
    fn find_ipv6(&self, frame: &[u8]) -> Option<Finding> {
        self.searched.iter().find_map(|prefix| {
            prefix.find_iter(frame).find_map(|at| {
                let octets: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
                let address = IpAddr::from(octets);
                let what = self.ranges.kind(address)?;
                let start = [8, 24].into_iter().filter_map(|before| at.checked_sub(before));
                let header = start.filter_map(|s| Some((s, frame.get(s..s + IPV6_HEADER)?)));
                let (start, _) =
                    header.into_iter().find(|(_, h)| h[0] >> 4 == 6 && PLAUSIBLE.contains(&h[6]))?;
                Some(anywhere("IPv6", start, what, address))
            })
        })
    }
}

fn anywhere(family: &str, at: usize, what: What, address: IpAddr) -> Finding {
    Finding { what, address: Some(address), place: format!("an {family} header at byte {at}") }
}

/// The Internet checksum of a whole header is all ones (RFC 1071).
fn checksum_is_right(header: &[u8]) -> bool {
    let words = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16) == 0xffff
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
