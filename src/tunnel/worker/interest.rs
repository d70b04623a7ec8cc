//! What the worker waits for.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::tunnel::handover::Reads;
use crate::tunnel::io::tun::TunQueue;
use crate::tunnel::io::udp::UdpSockets;

const TUN: u64 = 0;
const V4: u64 = 1;
const V6: u64 = 2;
const COMMANDS: u64 = 3;
const LINK: u64 = 4;

/// What has something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) tun: bool,
    pub(super) v4: bool,
    pub(super) v6: bool,
    pub(super) commands: bool,
    pub(super) link: bool,
}

#[derive(Debug)]
pub(super) struct Interest(Epoll);

impl Interest {
    pub(super) fn new(tun: &TunQueue, udp: &UdpSockets, commands: &impl AsFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let later = EpollFlags::empty();
        epoll.add(tun, EpollEvent::new(later, TUN))?;
        epoll.add(udp.v4(), EpollEvent::new(later, V4))?;
        if let Some(v6) = udp.v6() {
            epoll.add(v6, EpollEvent::new(later, V6))?;
        }
        epoll.add(commands, EpollEvent::new(EpollFlags::EPOLLIN, COMMANDS))?;
        Ok(Self(epoll))
    }

    /// Also waits for hand-over messages, until the link is closed.
    pub(super) fn add_link(&self, link: &impl AsFd) -> io::Result<()> {
        Ok(self.0.add(link, EpollEvent::new(EpollFlags::EPOLLIN, LINK))?)
    }

    /// While a batch waits for room in a socket, room in that one counts, and the TUN can wait.
    pub(super) fn set(
        &self,
        reads: Reads,
        batch_to: Option<SocketAddr>,
        tun: &TunQueue,
        udp: &UdpSockets,
    ) -> io::Result<()> {
        let read = |wanted| if wanted { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        let tun_flags = read(reads.tun && batch_to.is_none());
        let udp_flags = |v4: bool| match batch_to {
            Some(to) if to.is_ipv4() == v4 => read(reads.udp) | EpollFlags::EPOLLOUT,
            _ => read(reads.udp),
        };
        self.0.modify(tun, &mut EpollEvent::new(tun_flags, TUN))?;
        self.0.modify(udp.v4(), &mut EpollEvent::new(udp_flags(true), V4))?;
        if let Some(v6) = udp.v6() {
            self.0.modify(v6, &mut EpollEvent::new(udp_flags(false), V6))?;
        }
        Ok(())
    }

    /// Waits until something is ready or `deadline` has come.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> io::Result<Ready> {
        let mut events = [EpollEvent::empty(); 5];
        let count = match self.0.wait(&mut events, timeout(deadline)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut ready = Ready::default();
        for event in &events[..count] {
            match event.data() {
                TUN => ready.tun = true,
                V4 => ready.v4 = true,
                V6 => ready.v6 = true,
                LINK => ready.link = true,
                _ => ready.commands = true,
            }
        }
        Ok(ready)
    }
}

/// In whole milliseconds, rounded up so that nothing is early.
fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = left.as_micros().div_ceil(1000);
    EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::MAX)
}
