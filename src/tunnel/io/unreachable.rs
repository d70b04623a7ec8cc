//! The answer to a packet that has nowhere to go: ICMP "destination unreachable" (RFC 792, RFC 4443), so that a
//! program learns it at once instead of waiting.

use std::time::{Duration, Instant};

use super::checksum::{Sum, pseudo_header};
use super::packet::{IPV4, IPV6, put_word, word};
use super::vnet;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ICMP_HEADER: usize = 8;
/// An answer is no longer than this (RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;
const TTL: u8 = 64;

/// Answers at most so many packets in a [`PERIOD`].
const BURST: u32 = 50;
const PERIOD: Duration = Duration::from_secs(1);

/// Makes answers, but not too many.
#[derive(Debug)]
pub struct Unreachable {
    buffer: [u8; vnet::LEN + MAX_V6],
    begin: Instant,
    answered: u32,
}

impl Unreachable {
    /// One that has answered nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { buffer: [0; vnet::LEN + MAX_V6], begin: now, answered: 0 }
    }

    /// The answer to `packet`, behind an empty [`vnet`] header: from the address that cannot be reached, to the
    /// sender. None where the standards forbid one, or when there were many of late.
    pub fn answer(&mut self, packet: &[u8], now: Instant) -> Option<&[u8]> {
        if now.duration_since(self.begin) >= PERIOD {
            (self.begin, self.answered) = (now, 0);
        }
        if self.answered >= BURST {
            return None;
        }
        let out = &mut self.buffer[vnet::LEN..];
        let len = match packet.first()? >> 4 {
            4 => answer_v4(packet, out)?,
            6 => answer_v6(packet, out)?,
            _ => return None,
        };
        self.answered += 1;
        Some(&self.buffer[..vnet::LEN + len])
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an answer is short")]
fn answer_v4(packet: &[u8], out: &mut [u8]) -> Option<usize> {
    let header: &[u8; IPV4] = packet.first_chunk()?;
    let headers = usize::from(header[0] & 0xf) * 4;
    let is_error = header[9] == ICMP && !matches!(packet.get(headers), Some(0 | 8 | 13..=18));
    let is_fragment = word(header, 6) & 0x1fff != 0;
    let to_many = header[16] >= 224 || header[12] >= 224 || header[12] == 0;
    if is_error || is_fragment || to_many {
        return None;
    }
    let quoted = packet.len().min(MAX_V4 - IPV4 - ICMP_HEADER);
    let len = IPV4 + ICMP_HEADER + quoted;
    out[..IPV4 + ICMP_HEADER].fill(0);
    out[0] = 0x45;
    put_word(out, 2, len as u16);
    out[8] = TTL;
    out[9] = ICMP;
    out[12..16].copy_from_slice(&header[16..20]);
    out[16..20].copy_from_slice(&header[12..16]);
    let checksum = Sum::default().bytes(&out[..IPV4]).checksum();
    out[10..12].copy_from_slice(&checksum);
    let icmp = &mut out[IPV4..len];
    (icmp[0], icmp[1]) = (3, 1); // host unreachable
    icmp[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
    let checksum = Sum::default().bytes(icmp).checksum();
    icmp[2..4].copy_from_slice(&checksum);
    Some(len)
}

#[expect(clippy::cast_possible_truncation, reason = "an answer is short")]
fn answer_v6(packet: &[u8], out: &mut [u8]) -> Option<usize> {
    let header: &[u8; IPV6] = packet.first_chunk()?;
    let is_error = header[6] == ICMPV6 && packet.get(IPV6).is_none_or(|kind| kind & 0x80 == 0);
    let from_nobody = header[8] == 0xff || header[8..24] == [0; 16];
    if is_error || from_nobody || header[24] == 0xff {
        return None;
    }
    let quoted = packet.len().min(MAX_V6 - IPV6 - ICMP_HEADER);
    let len = IPV6 + ICMP_HEADER + quoted;
    out[..IPV6 + ICMP_HEADER].fill(0);
    out[0] = 0x60;
    put_word(out, 4, (len - IPV6) as u16);
    out[6] = ICMPV6;
    out[7] = TTL;
    out[8..24].copy_from_slice(&header[24..40]);
    out[24..40].copy_from_slice(&header[8..24]);
    let (network, icmp) = out[..len].split_at_mut(IPV6);
    icmp[0] = 1; // no route
    icmp[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
    let sum = pseudo_header(&network[8..40], ICMPV6).number((len - IPV6) as u16).bytes(icmp);
    icmp[2..4].copy_from_slice(&sum.checksum());
    Some(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnel::io::packet::destination;
    use crate::tunnel::io::testing::Flow;

    fn answer(packet: &[u8]) -> Option<Vec<u8>> {
        let now = Instant::now();
        Unreachable::new(now).answer(packet, now).map(|answer| answer[vnet::LEN..].to_vec())
    }

    #[test]
    fn the_sender_is_answered_with_its_own_packet() {
        let packet = Flow::new(false, true, 1).packet(900);
        let v4 = answer(&packet).unwrap();
        assert_eq!(destination(&v4), Some("10.0.0.1".parse().unwrap()));
        assert_eq!((v4.len(), &v4[20..22]), (576, &[3, 1][..]));
        assert_eq!(v4[28..], packet[..548]);
        assert!(Sum::default().bytes(&v4[..20]).is_valid() && Sum::default().bytes(&v4[20..]).is_valid());

        let packet = Flow::new(true, false, 1).packet(100);
        let v6 = answer(&packet).unwrap();
        assert_eq!(v6[24..40], [0xfd; 16]);
        assert_eq!(v6[48..], packet);
        let len = u16::try_from(v6.len() - 40).unwrap();
        assert!(pseudo_header(&v6[8..40], ICMPV6).number(len).bytes(&v6[40..]).is_valid());
    }

    #[test]
    fn errors_and_packets_to_many_are_not_answered() {
        let mut error = Flow::new(false, true, 1).packet(100);
        (error[9], error[20]) = (ICMP, 3);
        assert_eq!(answer(&error), None, "an ICMP error");
        error[20] = 8;
        assert!(answer(&error).is_some(), "an echo request");
        let mut multicast = Flow::new(false, true, 1).packet(100);
        multicast[16] = 224;
        assert_eq!(answer(&multicast), None, "multicast");
        let mut multicast = Flow::new(true, true, 1).packet(100);
        multicast[24] = 0xff;
        assert_eq!(answer(&multicast), None, "IPv6 multicast");
        let mut error = Flow::new(true, true, 1).packet(100);
        (error[6], error[40]) = (ICMPV6, 1);
        assert_eq!(answer(&error), None, "an ICMPv6 error");
    }

    #[test]
    fn only_so_many_are_answered_in_a_second() {
        let (packet, now) = (Flow::new(false, true, 1).packet(10), Instant::now());
        let mut unreachable = Unreachable::new(now);
        let answered = (0..1000).filter(|_| unreachable.answer(&packet, now).is_some()).count();
        assert_eq!(answered, BURST as usize);
        assert!(unreachable.answer(&packet, now + PERIOD).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(packet in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = answer(&packet);
        }
    }
}
