//! The listening sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::answer::{HEALTHZ_PORT, MODE_PORT, answer};
use super::wanted::{Held, Wanted};
use crate::observe::http;

const BACKLOG: i32 = 128;

/// What is wanted, and the listeners that answer from it.
#[derive(Debug, Default)]
pub(super) struct Hold {
    wanted: Arc<RwLock<Wanted>>,
    listeners: BTreeMap<u16, Listeners>,
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
        let ports: Vec<u16> = match wanted.proxy {
            Some(_) => [HEALTHZ_PORT, MODE_PORT].into_iter().chain(wanted.checks.keys().copied()).collect(),
            None => Vec::new(),
        };
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
        self.listeners.retain(|port, _| ports.contains(port));
        let mut held = Held::default();
        for port in ports {
            if self.listeners.contains_key(&port) {
                continue;
            }
            match self.open(port) {
                Ok(listeners) => drop(self.listeners.insert(port, listeners)),
                Err(error) => drop(held.refused.insert(port, error.to_string())),
            }
        }
        held
    }

    fn open(&self, port: u16) -> io::Result<Listeners> {
        let sockets = addresses(port).into_iter().map(listen).collect::<io::Result<Vec<_>>>()?;
        let tasks = sockets.into_iter().flatten().map(|listener| {
            let wanted = Arc::clone(&self.wanted);
            tokio::spawn(http::serve_answers(listener, move |request| {
                let wanted = wanted.read().unwrap_or_else(PoisonError::into_inner);
                answer(&wanted, port, request.uri().path(), Timestamp::now())
            }))
        });
        Ok(Listeners(tasks.collect()))
    }
}

fn addresses(port: u16) -> [SocketAddr; 2] {
    let addresses: [IpAddr; 2] = match port {
        MODE_PORT => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
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
