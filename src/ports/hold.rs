//! The listening sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::answer::{HEALTHZ_PORT, MODE_PORT, answer};
use super::forward;
use super::wanted::{Held, Wanted};
use crate::observe::http;

const BACKLOG: i32 = 128;

/// What is wanted, and the listeners that answer from it.
#[derive(Debug, Default)]
pub(super) struct Hold {
    wanted: Arc<RwLock<Wanted>>,
    listeners: BTreeMap<(Use, u16), Listeners>,
    /// Connections to node ports on loopback that were reset.
    reset: Arc<AtomicU64>,
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Answers,
    Forwards,
}

/// The tasks of a port; they end with this.
#[derive(Debug)]
struct Listeners(Vec<JoinHandle<()>>);

impl Drop for Listeners {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Hold {
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens and closes what is to be, and answers from `wanted` from now on. A port that cannot be had is tried again each time.
    pub(super) fn take(&mut self, wanted: Wanted) -> Held {
        let ports = ports(&wanted);
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
        self.listeners.retain(|port, _| ports.contains(port));
        let mut held = Held { reset: self.reset.load(Ordering::Relaxed), ..Held::default() };
        for (its_use, port) in ports {
            if self.listeners.contains_key(&(its_use, port)) {
                continue;
            }
            match self.open(its_use, port) {
                Ok(listeners) => drop(self.listeners.insert((its_use, port), listeners)),
                Err(error) => drop(held.refused.insert(port, error.to_string())),
            }
        }
        held
    }

    fn open(&self, its_use: Use, port: u16) -> io::Result<Listeners> {
        let is_loopback = its_use == Use::Forwards || port == MODE_PORT;
        let sockets = addresses(port, is_loopback).into_iter().map(listen).collect::<io::Result<Vec<_>>>()?;
        let task = |listener| match its_use {
            Use::Answers => self.answering(listener, port),
            Use::Forwards => tokio::spawn(forward::serve(
                listener,
                port,
                Arc::clone(&self.wanted),
                Arc::clone(&self.reset),
            )),
        };
        Ok(Listeners(sockets.into_iter().flatten().map(task).collect()))
    }

    fn answering(&self, listener: TcpListener, port: u16) -> JoinHandle<()> {
        let wanted = Arc::clone(&self.wanted);
        tokio::spawn(http::serve_answers(listener, move |request| {
            let wanted = wanted.read().unwrap_or_else(PoisonError::into_inner);
            answer(&wanted, port, request.uri().path(), Timestamp::now())
        }))
    }
}

fn ports(wanted: &Wanted) -> Vec<(Use, u16)> {
    if wanted.proxy.is_none() {
        return Vec::new();
    }
    let answers = [HEALTHZ_PORT, MODE_PORT].into_iter().chain(wanted.checks.keys().copied());
    let forwards = wanted.forwards.keys().map(|port| (Use::Forwards, *port));
    answers.map(|port| (Use::Answers, port)).chain(forwards).collect()
}

fn addresses(port: u16, is_loopback: bool) -> [SocketAddr; 2] {
    let addresses: [IpAddr; 2] = match is_loopback {
        true => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        false => [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    addresses.map(|address| SocketAddr::new(address, port))
}

/// None where the host has no such family. The next holder listens beside this one until this one ends, so that there always is one.
fn listen(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    let socket =
        match Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP)) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
            socket => socket?,
        };
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    match socket.bind(&address.into()) {
        Err(error) if address.is_ipv6() && error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
            return Ok(None);
        }
        bound => bound?,
    }
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into()).map(Some)
}
