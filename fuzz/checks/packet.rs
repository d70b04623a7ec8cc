// What has to hold for any bytes as packets: shared by the fuzz target and the test that replays its corpus.

use std::time::Instant;

use super::{Coalescer, LEN, Segments, Unreachable, VnetHeader, destination};

/// `input` is taken both as a packet from the TUN behind its offload header, and as packets from the network, each
/// behind its length in two bytes.
pub(super) fn check(input: &[u8]) {
    if let Some((header, packet)) = input.split_first_chunk::<LEN>() {
        cut(header, packet);
    }
    let mut packets = Vec::new();
    let mut rest = input;
    while let Some((length, more)) = rest.split_first_chunk() {
        let (packet, more) = more.split_at(more.len().min(u16::from_be_bytes(*length).into()));
        if !packet.is_empty() {
            packets.push(packet.to_vec()); // an empty message is a keepalive, and never comes here
        }
        rest = more;
    }
    join(packets);
}

fn cut(header: &[u8; LEN], packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let now = Instant::now();
    let _ = destination(packet);
    let _ = Unreachable::new(now).answer(packet, now);
    let mut packet = packet.to_vec();
    let mut segments = Segments::new(&VnetHeader::decode(header)?, &mut packet).ok()?;
    let longest = segments.longest();
    let mut cut = Vec::new();
    while let Some(segment) = segments.next() {
        assert!(segment.len() <= longest, "a segment is longer than announced");
        cut.push(segment.to_vec());
    }
    Some(cut)
}

fn join(mut packets: Vec<Vec<u8>>) {
    let mut written = Vec::new();
    let mut sink = |bytes: &[u8]| {
        let (header, packet) = bytes.split_first_chunk().expect("it stands behind a header");
        written.extend(cut(header, packet).expect("what was joined can be cut"));
    };
    let mut coalescer = Coalescer::new(true, true);
    for packet in &packets {
        let open = |out: &mut [u8]| {
            out[..packet.len()].copy_from_slice(packet);
            out[packet.len()..packet.len() + 16].fill(0xee);
            Some(packet.len())
        };
        coalescer.take(open, &mut sink);
    }
    coalescer.flush(&mut sink);
    packets.sort();
    written.sort();
    assert_eq!(packets, written, "what was joined is cut into the same packets");
}
