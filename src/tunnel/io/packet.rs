//! What the data plane has to know of an IP packet (RFC 791, RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an IPv4 header without options.
pub(super) const IPV4: usize = 20;
/// Length of the fixed IPv6 header.
pub(super) const IPV6: usize = 40;
/// Protocol number of TCP.
pub(super) const TCP: u8 = 6;
/// Protocol number of UDP.
pub(super) const UDP: u8 = 17;

/// The destination of `packet`; none if it is no whole IP packet.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let header: &[u8; IPV4] = packet.first_chunk()?;
            let whole = usize::from(word(header, 2)) <= packet.len();
            let address: [u8; 4] = *header[16..].first_chunk()?;
            whole.then(|| Ipv4Addr::from(address).into())
        }
        6 => {
            let header: &[u8; IPV6] = packet.first_chunk()?;
            let whole = usize::from(word(header, 4)) + IPV6 <= packet.len();
            let address: [u8; 16] = *header[24..].first_chunk()?;
            whole.then(|| Ipv6Addr::from(address).into())
        }
        _ => None,
    }
}

/// The number at `at`, in network order; the caller knows that it is there.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The number at `at`, in network order; the caller knows that it is there.
#[inline]
pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
pub(super) fn put_word(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
pub(super) fn put_long(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_found_in_whole_packets_only() {
        let mut v4 = vec![0; 28];
        v4[0] = 0x45;
        v4[3] = 28;
        v4[16..20].copy_from_slice(&[10, 1, 2, 3]);
        assert_eq!(destination(&v4), Some("10.1.2.3".parse().unwrap()));
        assert_eq!(destination(&v4[..27]), None, "cut short");
        let mut v6 = vec![0; 48];
        v6[0] = 0x60;
        v6[5] = 8;
        v6[39] = 1;
        assert_eq!(destination(&v6), Some("::1".parse().unwrap()));
        assert_eq!(destination(&v6[..47]), None, "cut short");
        assert_eq!(destination(&[0x50; 60]), None, "version 5");
        assert_eq!(destination(&[]), None);
    }
}
