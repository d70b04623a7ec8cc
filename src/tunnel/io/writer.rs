//! Writes to the TUN, and what becomes of a super-packet that the kernel refuses: some kernels take less than they offer.
//! Linux 6.6.44 and 6.10.3 refuse those whose last part is a few bytes.

use std::io;

use super::joins::{Joining, Joins};
use super::segment::Segments;
use super::tun::TunQueue;
use super::vnet::{self, Gso, VnetHeader};

/// Super-packets of one kind that the kernel may refuse until fewer packets of that kind are joined.
const REFUSALS: u32 = 16;

/// Takes packets and super-packets, each behind its offload header.
pub trait Sink {
    /// Takes `packet`, or refuses it whole.
    ///
    /// # Errors
    /// `EINVAL` for a super-packet that the kernel does not take; anything else for a device that takes nothing now.
    fn write(&self, packet: &[u8]) -> io::Result<()>;
}

impl Sink for TunQueue {
    fn write(&self, packet: &[u8]) -> io::Result<()> {
        Self::write(self, packet)
    }
}

/// What the writer knows of its sink.
#[derive(Debug)]
pub struct Writer {
    joins: Joins,
    even: Refusals,
    /// Of those with a shorter last part.
    uneven: Refusals,
    resent: u64,
    lost: u64,
    /// A super-packet while its parts are written.
    parts: Vec<u8>,
    /// One part behind an empty offload header.
    part: Vec<u8>,
}

/// Refused super-packets by kind.
#[derive(Debug, Default)]
struct Refusals {
    tcp_v4: u32,
    tcp_v6: u32,
    udp: u32,
}

impl Writer {
    /// A writer to a sink that offers to take what `joins` says.
    #[must_use]
    pub fn new(joins: Joins) -> Self {
        let (even, uneven) = (Refusals::default(), Refusals::default());
        let part = VnetHeader::default().encode().to_vec();
        Self { joins, even, uneven, resent: 0, lost: 0, parts: Vec::new(), part }
    }

    /// What may be joined from now on.
    #[must_use]
    pub fn joins(&self) -> Joins {
        self.joins
    }

    /// Super-packets that were refused; their parts were written one by one.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Packets that were refused for good.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes a packet or super-packet that stands behind its offload header.
    #[inline]
    pub fn write(&mut self, sink: &impl Sink, packet: &[u8]) {
        if let Err(error) = sink.write(packet) {
            self.refused(sink, packet, &error);
        }
    }

    #[cold]
    fn refused(&mut self, sink: &impl Sink, packet: &[u8], error: &io::Error) {
        let parsed = packet
            .split_first_chunk()
            .and_then(|(header, packet)| Some((VnetHeader::decode(header)?, packet)))
            .filter(|(header, _)| header.gso != Gso::None && error.raw_os_error() == Some(libc::EINVAL));
        match parsed {
            Some((header, packet)) => self.write_parts(sink, &header, packet),
            None => self.lost += 1,
        }
    }

    fn write_parts(&mut self, sink: &impl Sink, header: &VnetHeader, packet: &[u8]) {
        self.resent += 1;
        self.join_less(header, packet.len());
        let Self { parts, part, lost, .. } = self;
        parts.clear();
        parts.extend_from_slice(packet);
        let Ok(mut segments) = Segments::new(header, parts) else {
            *lost += 1;
            return;
        };
        while let Some(segment) = segments.next() {
            part.truncate(vnet::LEN);
            part.extend_from_slice(segment);
            *lost += u64::from(sink.write(part).is_err());
        }
    }

    /// Counts a refusal; after many of its kind fewer packets of that kind are joined.
    fn join_less(&mut self, header: &VnetHeader, len: usize) {
        let payload = len.saturating_sub(header.header_len.into());
        let is_uneven = payload % usize::from(header.gso_size.max(1)) != 0;
        let (refusals, left) =
            if is_uneven { (&mut self.uneven, Joining::Equal) } else { (&mut self.even, Joining::Nothing) };
        let Some(count) = refusals.of(header.gso) else { return };
        *count += 1;
        if *count == REFUSALS && self.joins.of(header.gso) != Joining::Nothing {
            self.joins.set(header.gso, left);
            tracing::warn!(
                kind = ?header.gso,
                joining = ?left,
                "the kernel refused {REFUSALS} super-packets of this kind: joining fewer packets"
            );
        }
    }
}

impl Refusals {
    fn of(&mut self, gso: Gso) -> Option<&mut u32> {
        match gso {
            Gso::None => None,
            Gso::TcpV4 => Some(&mut self.tcp_v4),
            Gso::TcpV6 => Some(&mut self.tcp_v6),
            Gso::Udp => Some(&mut self.udp),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::tunnel::io::coalesce::Coalescer;
    use crate::tunnel::io::testing::{Flow, naive_cut};

    type Refuses = fn(&VnetHeader, &[u8]) -> Option<i32>;

    /// A kernel that refuses some of what it is given.
    struct Faulty {
        refuses: Refuses,
        taken: RefCell<Vec<Vec<u8>>>,
    }

    impl Sink for Faulty {
        fn write(&self, packet: &[u8]) -> io::Result<()> {
            let (header, packet) = packet.split_first_chunk().unwrap();
            let header = VnetHeader::decode(header).unwrap();
            match (self.refuses)(&header, packet) {
                Some(error) => Err(io::Error::from_raw_os_error(error)),
                None => {
                    self.taken.borrow_mut().extend(naive_cut(&header, packet));
                    Ok(())
                }
            }
        }
    }

    fn short_last(header: &VnetHeader, packet: &[u8]) -> Option<i32> {
        let payload = packet.len() - usize::from(header.header_len);
        let last = payload % usize::from(header.gso_size.max(1));
        (header.gso != Gso::None && (1..28).contains(&last)).then_some(libc::EINVAL)
    }

    fn all_joined(header: &VnetHeader, _: &[u8]) -> Option<i32> {
        (header.gso != Gso::None).then_some(libc::EINVAL)
    }

    /// Writes `rounds` bursts of `count` packets of a flow and a shorter one; how far they are joined in the end.
    fn run(refuses: Refuses, v6: bool, udp: bool, rounds: usize, count: usize) -> Writer {
        let sink = Faulty { refuses, taken: RefCell::default() };
        let (mut coalescer, mut writer) = (Coalescer::new(true, true), Writer::new(Joins::new(true, true)));
        let mut flow = Flow::new(v6, udp, 1);
        let mut given = Vec::new();
        for _ in 0..rounds {
            for at in 0..=count {
                let packet = flow.packet(if at == count { 3 } else { 1000 });
                let open = |out: &mut [u8]| {
                    out[..packet.len()].copy_from_slice(&packet);
                    Some(packet.len())
                };
                coalescer.take(open, &mut |bytes| writer.write(&sink, bytes));
                given.push(packet);
            }
            coalescer.flush(&mut |bytes| writer.write(&sink, bytes));
            coalescer.set_joins(writer.joins());
        }
        assert!(*sink.taken.borrow() == given, "v6 {v6}, udp {udp}: every packet, in order");
        assert_eq!(writer.lost(), 0);
        writer
    }

    const KINDS: [(bool, bool, Gso); 4] = [
        (false, false, Gso::TcpV4),
        (true, false, Gso::TcpV6),
        (false, true, Gso::Udp),
        (true, true, Gso::Udp),
    ];

    #[test]
    fn a_refused_super_packet_is_written_part_by_part() {
        for (v6, udp, gso) in KINDS {
            for refuses in [short_last as Refuses, all_joined] {
                let writer = run(refuses, v6, udp, 1, 10);
                assert_eq!((writer.resent(), writer.joins()), (1, Joins::new(true, true)), "{gso:?}");
            }
        }
    }

    #[test]
    fn what_is_refused_often_is_joined_no_longer() {
        for (v6, udp, gso) in KINDS {
            for (refuses, left) in [(short_last as Refuses, Joining::Equal), (all_joined, Joining::Nothing)] {
                let writer = run(refuses, v6, udp, 100, 10);
                let mut joins = Joins::new(true, true);
                joins.set(gso, left);
                assert_eq!(writer.joins(), joins, "other kinds are joined as before");
                assert!(writer.resent() <= 2 * u64::from(REFUSALS), "{gso:?}: {}", writer.resent());
            }
        }
    }

    #[test]
    fn what_a_device_that_is_down_refuses_is_lost_once() {
        let sink = Faulty { refuses: |_, _| Some(libc::EIO), taken: RefCell::default() };
        let mut writer = Writer::new(Joins::new(true, true));
        let (header, packet) = Flow::new(false, false, 1).super_packet(1000, 5000);
        writer.write(&sink, &[&header.encode()[..], &packet].concat());
        assert_eq!((writer.lost(), writer.resent(), writer.joins()), (1, 0, Joins::new(true, true)));
    }

    #[test]
    fn a_single_packet_that_makes_no_sense_is_lost() {
        let sink = Faulty { refuses: |_, _| Some(libc::EINVAL), taken: RefCell::default() };
        let mut writer = Writer::new(Joins::new(true, true));
        let packet = Flow::new(false, false, 1).packet(100);
        writer.write(&sink, &[&VnetHeader::default().encode()[..], &packet].concat());
        assert_eq!((writer.lost(), writer.resent()), (1, 0));
    }
}
