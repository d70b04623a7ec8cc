//! Cuts a super-packet from the TUN into the packets it stands for, inside its own buffer.
//!
//! Each segment's headers are written right in front of its payload, over the end of the segment before, which
//! its user is done with by then: no payload byte is moved.

use super::checksum::Sum;
use super::packet::{IPV4, IPV6, put_long, put_word, word};
use super::vnet::{Gso, VnetHeader};

/// Longest headers that are cut: IPv4 with all options and TCP with all options, or IPv6 with some extensions.
const MAX_HEADERS: usize = 256;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// A super-packet whose header and bytes contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet from the TUN whose offload header does not fit it")]
pub struct Malformed;

/// The packets in a buffer, one after the other.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a mut [u8],
    /// Where the next payload starts; for a plain packet, 0 until it was given out.
    next: usize,
    cut: Option<Cut>,
}

/// How a super-packet is cut.
#[derive(Debug)]
struct Cut {
    /// The headers, with zeros where each segment has its own checksums and lengths.
    headers: [u8; MAX_HEADERS],
    headers_len: usize,
    /// Where the transport header starts.
    transport: usize,
    udp: bool,
    payload: usize,
    /// Sum of the IPv4 header without length and identification.
    ip_sum: Sum,
    ip_id: u16,
    /// Sum of the pseudo-header without the length.
    pseudo_sum: Sum,
    sequence: u32,
    flags: u8,
    index: u32,
}

impl<'a> Segments<'a> {
    /// The packets of `packet`, which `header` describes.
    ///
    /// # Errors
    /// [`Malformed`] if they contradict each other.
    pub fn new(header: &VnetHeader, packet: &'a mut [u8]) -> Result<Self, Malformed> {
        let cut = match header.gso {
            Gso::None => None,
            _ => Some(Cut::new(header, packet)?),
        };
        if cut.is_none() && header.needs_checksum {
            complete(header, packet)?;
        }
        let next = cut.as_ref().map_or(0, |cut| cut.headers_len);
        Ok(Self { packet, next, cut })
    }

    /// The next packet, whole and with its checksums right. It is overwritten by the one after.
    #[expect(clippy::should_implement_trait, reason = "each packet lives only until the next is asked for")]
    pub fn next(&mut self) -> Option<&[u8]> {
        let (from, len) = (self.next, self.packet.len());
        if from >= len {
            return None;
        }
        let Some(cut) = &mut self.cut else {
            self.next = len;
            return Some(self.packet);
        };
        let end = len.min(from + cut.payload);
        let segment = &mut self.packet[from - cut.headers_len..end];
        cut.write(segment, end == len);
        self.next = end;
        Some(segment)
    }

    /// Length of the longest packet in there, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        let len = self.packet.len();
        self.cut.as_ref().map_or(len, |cut| len.min(cut.headers_len + cut.payload))
    }
}

impl Cut {
    #[expect(clippy::cast_possible_truncation, reason = "a packet is no longer than 65,535 bytes: checked")]
    fn new(header: &VnetHeader, packet: &[u8]) -> Result<Self, Malformed> {
        let transport = usize::from(header.checksum_start);
        let udp = header.gso == Gso::Udp;
        let v4 = packet.first().ok_or(Malformed)? >> 4 == 4;
        let fits = match (header.gso, packet[0] >> 4) {
            (Gso::TcpV4 | Gso::Udp, 4) => transport >= IPV4 && transport == usize::from(packet[0] & 0xf) * 4,
            (Gso::TcpV6 | Gso::Udp, 6) => transport >= IPV6,
            _ => false,
        };
        let least = if udp { UDP_HEADER } else { TCP_HEADER };
        let rest = packet.get(transport..).filter(|rest| rest.len() > least).ok_or(Malformed)?;
        let headers_len = transport + if udp { UDP_HEADER } else { usize::from(rest[12] >> 4) * 4 };
        let whole = fits
            && header.needs_checksum
            && usize::from(header.checksum_offset) == checksum_at(udp)
            && headers_len >= transport + least
            && headers_len < packet.len()
            && headers_len <= MAX_HEADERS
            && packet.len() <= super::MAX_PACKET
            && header.gso_size > 0;
        if !whole {
            return Err(Malformed);
        }
        let mut headers = [0; MAX_HEADERS];
        headers[..headers_len].copy_from_slice(&packet[..headers_len]);
        let ip_id = word(&headers, 4);
        let mut ip_sum = Sum::default();
        if v4 {
            headers[2..6].fill(0);
            headers[10..12].fill(0);
            ip_sum = ip_sum.bytes(&headers[..transport]);
        }
        // The kernel left the sum of the pseudo-header with the length of the whole in it.
        let checksum = transport + checksum_at(udp);
        let whole_len = (packet.len() - transport) as u16;
        let pseudo_sum = Sum::default().number(word(&headers, checksum)).without(whole_len);
        headers[checksum..checksum + 2].fill(0);
        Ok(Self {
            headers_len,
            transport,
            udp,
            payload: usize::from(header.gso_size),
            ip_sum,
            ip_id,
            pseudo_sum,
            sequence: if udp { 0 } else { super::packet::long(&headers, transport + 4) },
            flags: if udp { 0 } else { headers[transport + 13] },
            index: 0,
            headers,
        })
    }

    /// Writes the headers of one segment, whose payload is there already.
    #[expect(clippy::cast_possible_truncation, reason = "no segment is longer than the whole; IDs wrap")]
    fn write(&mut self, segment: &mut [u8], last: bool) {
        let len = segment.len();
        segment[..self.headers_len].copy_from_slice(&self.headers[..self.headers_len]);
        if segment[0] >> 4 == 4 {
            let id = self.ip_id.wrapping_add(self.index as u16);
            put_word(segment, 2, len as u16);
            put_word(segment, 4, id);
            segment[10..12].copy_from_slice(&self.ip_sum.number(len as u16).number(id).checksum());
        } else {
            put_word(segment, 4, (len - IPV6) as u16);
        }
        let transport = &mut segment[self.transport..];
        let len = transport.len() as u16;
        if self.udp {
            put_word(transport, 4, len);
        } else {
            put_long(transport, 4, self.sequence.wrapping_add(self.index * self.payload as u32));
            let not_here = if last { 0 } else { FIN_PSH } | if self.index == 0 { 0 } else { CWR };
            transport[13] = self.flags & !not_here;
        }
        let sum = self.pseudo_sum.number(len).bytes(transport);
        put_checksum(transport, sum, checksum_at(self.udp));
        self.index += 1;
    }
}

/// Adds the sum of the payload to that of the pseudo-header, which the kernel left in the checksum's place.
fn complete(header: &VnetHeader, packet: &mut [u8]) -> Result<(), Malformed> {
    let offset = usize::from(header.checksum_offset);
    let part = packet.get_mut(usize::from(header.checksum_start)..).ok_or(Malformed)?;
    if offset + 2 > part.len() {
        return Err(Malformed);
    }
    let sum = Sum::default().bytes(part);
    put_checksum(part, sum, offset);
    Ok(())
}

/// Stores a checksum. For UDP, 0 would mean that there is none (RFC 768).
fn put_checksum(transport: &mut [u8], sum: Sum, at: usize) {
    let checksum = match sum.checksum() {
        [0, 0] if at == checksum_at(true) => [0xff, 0xff],
        checksum => checksum,
    };
    transport[at..at + 2].copy_from_slice(&checksum);
}

/// Where TCP and UDP have their checksums.
pub(super) const fn checksum_at(udp: bool) -> usize {
    if udp { 6 } else { 16 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnel::io::testing::{Flow, naive_cut};

    fn cut(header: &VnetHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut buffer = packet.to_vec();
        let mut segments = Segments::new(header, &mut buffer)?;
        let longest = segments.longest();
        let mut packets = Vec::new();
        while let Some(segment) = segments.next() {
            assert!(segment.len() <= longest);
            packets.push(segment.to_vec());
        }
        Ok(packets)
    }

    #[test]
    fn a_plain_packet_gets_its_checksum() {
        let mut flow = Flow::new(false, false, 1);
        let right = flow.packet(99);
        let (mut header, packet) = Flow::new(false, false, 1).super_packet(99, 99);
        header.gso = Gso::None;
        assert_ne!(packet, right);
        assert_eq!(cut(&header, &packet), Ok(vec![right]));
    }

    #[test]
    fn push_and_fin_stay_with_the_last_and_cwr_with_the_first() {
        let (header, mut packet) = Flow::new(true, false, 1).super_packet(100, 300);
        packet[40 + 13] = 0xd9;
        let flags: Vec<_> = cut(&header, &packet).unwrap().iter().map(|one| one[40 + 13]).collect();
        assert_eq!(flags, [0xd0, 0x50, 0x59]);
    }

    #[test]
    fn headers_longer_than_the_segments_do_no_harm() {
        let (header, packet) = Flow::new(false, false, 1).super_packet(3, 100);
        assert_eq!(cut(&header, &packet).unwrap(), naive_cut(&header, &packet));
    }

    #[test]
    fn contradictions_are_refused() {
        let (header, packet) = Flow::new(false, false, 1).super_packet(100, 300);
        let changed: [(&str, VnetHeader); 7] = [
            ("no size", VnetHeader { gso_size: 0, ..header }),
            ("wrong family", VnetHeader { gso: Gso::TcpV6, ..header }),
            ("wrong protocol", VnetHeader { gso: Gso::Udp, ..header }),
            ("no checksum", VnetHeader { needs_checksum: false, ..header }),
            ("start inside", VnetHeader { checksum_start: 8, ..header }),
            ("start outside", VnetHeader { checksum_start: 351, ..header }),
            ("offset outside", VnetHeader { gso: Gso::None, checksum_offset: 9999, ..header }),
        ];
        for (what, header) in changed {
            assert_eq!(cut(&header, &packet), Err(Malformed), "{what}");
        }
    }

    proptest! {
        #[test]
        fn cutting_is_what_the_model_does(
            v6 in any::<bool>(), udp in any::<bool>(), size in 1..3000_usize, payload in 1..9000_usize,
        ) {
            let (header, packet) = Flow::new(v6, udp, 1).super_packet(size, payload);
            prop_assert_eq!(cut(&header, &packet).unwrap(), naive_cut(&header, &packet));
        }

        #[test]
        fn no_bytes_make_it_panic(
            header in any::<[u8; 10]>(), packet in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            if let Some(header) = VnetHeader::decode(&header) {
                let _ = cut(&header, &packet);
            }
        }

        #[test]
        fn no_changed_byte_makes_it_panic(
            v6 in any::<bool>(), udp in any::<bool>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let (header, packet) = Flow::new(v6, udp, 1).super_packet(100, 400);
            let mut bytes = [&header.encode()[..], &packet].concat();
            let at = at.index(80);
            bytes[at] = byte;
            let (header, packet) = bytes.split_first_chunk().unwrap();
            if let Some(header) = VnetHeader::decode(header) {
                let _ = cut(&header, packet);
            }
        }
    }
}
