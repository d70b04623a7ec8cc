//! Packets for tests, and a plain model of how Linux cuts super-packets (`tcp_gso_segment`, `inet_gso_segment`,
//! `__udp_gso_segment`).

use super::packet::{TCP, UDP, long, put_long, put_word, word};
use super::vnet::{Gso, VnetHeader};

/// Makes the packets of one flow, each continuing the one before.
pub(super) struct Flow {
    v6: bool,
    udp: bool,
    port: u16,
    id: u16,
    sequence: u32,
}

impl Flow {
    pub(super) fn new(v6: bool, udp: bool, port: u16) -> Self {
        // Both wrap within a few packets.
        Self { v6, udp, port, id: 0xfffd, sequence: 0xffff_f000 }
    }

    /// The next packet, with `payload` bytes.
    pub(super) fn packet(&mut self, payload: usize) -> Vec<u8> {
        let network = if self.v6 { 40 } else { 20 };
        let transport = if self.udp { 8 } else { 32 };
        let len = network + transport + payload;
        let mut packet = vec![0; len];
        if self.v6 {
            packet[0] = 0x60;
            put_word(&mut packet, 4, u16::try_from(len - 40).unwrap());
            packet[6] = if self.udp { UDP } else { TCP };
            packet[7] = 64;
            packet[8..24].copy_from_slice(&[0xfd; 16]);
            packet[24..40].copy_from_slice(&[0xfc; 16]);
        } else {
            packet[0] = 0x45;
            put_word(&mut packet, 2, u16::try_from(len).unwrap());
            put_word(&mut packet, 4, self.id);
            packet[6] = 0x40;
            packet[8] = 64;
            packet[9] = if self.udp { UDP } else { TCP };
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            self.id = self.id.wrapping_add(1);
        }
        let at = network;
        put_word(&mut packet, at, self.port);
        put_word(&mut packet, at + 2, 443);
        if self.udp {
            put_word(&mut packet, at + 4, u16::try_from(8 + payload).unwrap());
        } else {
            put_long(&mut packet, at + 4, self.sequence);
            put_long(&mut packet, at + 8, 77);
            packet[at + 12] = 0x80;
            packet[at + 13] = 0x10;
            put_word(&mut packet, at + 14, 500);
            packet[at + 20..at + 32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
            self.sequence = self.sequence.wrapping_add(u32::try_from(payload).unwrap());
        }
        for (place, byte) in packet[network + transport..].iter_mut().enumerate() {
            *byte = u8::try_from((place + usize::from(self.id)) % 251).unwrap();
        }
        Self::put_checksums(&mut packet);
        packet
    }

    /// A super-packet that stands for packets of `size` bytes of payload.
    pub(super) fn super_packet(&mut self, size: usize, payload: usize) -> (VnetHeader, Vec<u8>) {
        let mut packet = self.packet(payload);
        let transport = if self.v6 { 40 } else { 20 };
        let offset = if self.udp { 6 } else { 16 };
        let gso = match (self.udp, self.v6) {
            (true, _) => Gso::Udp,
            (false, false) => Gso::TcpV4,
            (false, true) => Gso::TcpV6,
        };
        let pseudo = pseudo_sum(&packet, transport);
        packet[transport + offset..transport + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
        let header = VnetHeader {
            needs_checksum: true,
            gso,
            header_len: u16::try_from(transport + if self.udp { 8 } else { 32 }).unwrap(),
            gso_size: u16::try_from(size).unwrap(),
            checksum_start: u16::try_from(transport).unwrap(),
            checksum_offset: u16::try_from(offset).unwrap(),
        };
        (header, packet)
    }

    /// Sets the TCP flags.
    pub(super) fn set_flags(&self, packet: &mut [u8], flags: u8) {
        if !self.udp {
            packet[if self.v6 { 40 } else { 20 } + 13] = flags;
            Self::put_checksums(packet);
        }
    }

    /// Puts the checksums right, as far as there are any.
    pub(super) fn put_checksums(packet: &mut [u8]) {
        let Some(transport) = transport_of(packet) else { return };
        if transport == 20 {
            put_word(packet, 10, 0);
            let checksum = !sum(&packet[..20]);
            put_word(packet, 10, checksum);
        }
        let protocol = packet[if transport == 20 { 9 } else { 6 }];
        let at = transport + if protocol == UDP { 6 } else { 16 };
        if packet.len() < at + 2 {
            return;
        }
        put_word(packet, at, 0);
        let whole = [&pseudo_sum(packet, transport).to_be_bytes()[..], &packet[transport..]].concat();
        let checksum = match !sum(&whole) {
            0 if protocol == UDP => 0xffff,
            checksum => checksum,
        };
        put_word(packet, at, checksum);
    }
}

/// Where TCP or UDP starts, in a packet without options, extensions and fragments.
pub(super) fn transport_of(packet: &[u8]) -> Option<usize> {
    match packet.first()? {
        0x45 if packet.len() >= 20 && matches!(packet[9], TCP | UDP) && word(packet, 6) & 0x3fff == 0 => {
            Some(20)
        }
        0x60..=0x6f if packet.len() >= 40 && matches!(packet[6], TCP | UDP) => Some(40),
        _ => None,
    }
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn pseudo_sum(packet: &[u8], transport: usize) -> u16 {
    let (addresses, protocol) =
        if transport == 20 { (&packet[12..20], packet[9]) } else { (&packet[8..40], packet[6]) };
    let len = u16::try_from(packet.len() - transport).unwrap();
    sum(&[addresses, &[0, protocol], &len.to_be_bytes()].concat())
}

/// The packets that a super-packet stands for, each made anew.
pub(super) fn naive_cut(header: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    if header.gso == Gso::None {
        return vec![packet.to_vec()];
    }
    let udp = header.gso == Gso::Udp;
    let transport = usize::from(header.checksum_start);
    let headers = transport + if udp { 8 } else { usize::from(packet[transport + 12] >> 4) * 4 };
    let payloads: Vec<_> = packet[headers..].chunks(header.gso_size.into()).collect();
    let last = payloads.len() - 1;
    let mut packets = Vec::new();
    let mut before = 0;
    for (at, payload) in payloads.iter().enumerate() {
        let mut one = [&packet[..headers], payload].concat();
        let len = u16::try_from(one.len()).unwrap();
        if packet[0] >> 4 == 4 {
            put_word(&mut one, 2, len);
            put_word(&mut one, 4, word(packet, 4).wrapping_add(u16::try_from(at).unwrap()));
        } else {
            put_word(&mut one, 4, len - 40);
        }
        if udp {
            put_word(&mut one, transport + 4, len - u16::try_from(transport).unwrap());
        } else {
            put_long(&mut one, transport + 4, long(packet, transport + 4).wrapping_add(before));
            one[transport + 13] &= if at == last { 0xff } else { !0x09 };
            one[transport + 13] &= if at == 0 { 0xff } else { !0x80 };
        }
        before += u32::try_from(payload.len()).unwrap();
        Flow::put_checksums(&mut one);
        packets.push(one);
    }
    packets
}
