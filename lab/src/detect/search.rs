//! IP headers at any offset of a frame, whatever stands before them.

use std::net::IpAddr;

use memchr::memmem::Finder;

use super::{Ranges, What};

/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;
/// Bytes of an IPv6 header.
const IPV6: usize = 40;

/// What bytes have to be like, to be taken for an IPv4 header without options.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter {
    /// The upper-layer protocols that it may name.
    pub(super) protocols: &'static [u8],
    /// The bits of its checksum that have to be right.
    pub(super) checksum: u16,
    /// In ciphertext: the longest packet that is believed, headers included. A packet that a node forwards over a link
    /// of MTU 1500 is shorter.
    pub(super) longest: u16,
}

impl Filter {
    /// The filter in use.
    pub(super) const USED: Self = Self {
        protocols: &[0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 103, 132],
        checksum: u16::MAX,
        longest: 2048,
    };

    /// The probability that random bytes at a given offset are taken for an IPv4 header of ciphertext whose source or
    /// destination is one of so many `addresses`.
    #[cfg(test)]
    #[expect(clippy::cast_precision_loss, reason = "a probability")]
    pub(super) fn chance(&self, addresses: u64) -> f64 {
        let first_byte = 1.0 / 256.0;
        let protocol = self.protocols.len() as f64 / 256.0;
        let checksum = 0.5_f64.powi(i32::try_from(self.checksum.count_ones()).unwrap());
        let length = (f64::from(self.longest) - 19.0) / 65536.0;
        let each = addresses as f64 / 2_f64.powi(32);
        first_byte * protocol * checksum * length * (1.0 - (1.0 - each).powi(2))
    }
}

/// Bytes that may be an IP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) family: &'static str,
    /// Where it begins.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
    /// The packet's length as it says itself, headers included.
    pub(super) length: usize,
    /// Those of source and destination that are the cluster's.
    pub(super) named: Vec<(What, IpAddr)>,
}

/// Looks for IPv4 headers without options; only one whose checksum is right counts.
pub(super) fn ipv4<'a>(
    frame: &'a [u8],
    ranges: &'a Ranges,
    filter: &'a Filter,
) -> impl Iterator<Item = Header> + 'a {
    let last = frame.len().checked_sub(IPV4);
    let searched = last.map_or(&[][..], |last| &frame[..=last]);
    memchr::memchr_iter(0x45, searched).filter_map(move |start| {
        let header: &[u8; IPV4] = frame.get(start..start + IPV4)?.try_into().ok()?;
        let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let addresses = [address(12), address(16)];
        // Cheapest first: this is done for every 256th byte of all that is captured.
        let plausible = filter.protocols.contains(&header[9])
            && addresses.iter().any(|address| ranges.kind(*address).is_some())
            && sum(header) & filter.checksum == filter.checksum;
        plausible.then(|| Header {
            family: "IPv4",
            start,
            end: start + IPV4,
            length: usize::from(u16::from_be_bytes([header[2], header[3]])),
            named: named(addresses, ranges),
        })
    })
}

/// Looks for the cluster's IPv6 prefixes where a plausible header would hold them.
pub(super) fn ipv6<'a>(
    frame: &'a [u8],
    ranges: &'a Ranges,
    prefixes: &'a [Finder<'static>],
) -> impl Iterator<Item = Header> + 'a {
    let found = prefixes.iter().flat_map(|prefix| prefix.find_iter(frame));
    let starts = found.flat_map(|at| [at.checked_sub(8), at.checked_sub(24)]).flatten();
    starts.filter_map(move |start| {
        let header: &[u8; IPV6] = frame.get(start..start + IPV6)?.try_into().ok()?;
        let address =
            |at: usize| IpAddr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("16 of 40 bytes"));
        let named = named([address(8), address(24)], ranges);
        let plausible = header[0] >> 4 == 6 && Filter::USED.protocols.contains(&header[6]);
        (plausible && !named.is_empty()).then(|| Header {
            family: "IPv6",
            start,
            end: start + IPV6,
            length: IPV6 + usize::from(u16::from_be_bytes([header[4], header[5]])),
            named,
        })
    })
}

impl Header {
    /// Whether the packet that it announces can be between its start and `end`.
    pub(super) fn fits(&self, end: usize, filter: &Filter) -> bool {
        let room = end.saturating_sub(self.start).min(filter.longest.into());
        (self.end - self.start..=room).contains(&self.length)
    }
}

fn named(addresses: [IpAddr; 2], ranges: &Ranges) -> Vec<(What, IpAddr)> {
    addresses.into_iter().filter_map(|address| Some((ranges.kind(address)?, address))).collect()
}

/// The Internet checksum of a whole header, which is all ones if it is right (RFC 1071).
fn sum(header: &[u8; IPV4]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice")
}
