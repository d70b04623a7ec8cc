//! The data plane as the engine holds it: the worker thread, and copies of the descriptors it works on.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use socket2::SockRef;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::ChangeError;
use crate::tunnel::descriptors::{Descriptors, slot};
use crate::tunnel::device::DeviceEvent;
use crate::tunnel::device::config::{Config, PeerChanges};
use crate::tunnel::handover::{Inheritance, Outcome};
use crate::tunnel::io::tun::{TunError, TunQueue};
use crate::tunnel::io::udp::{UdpError, UdpSockets};
use crate::tunnel::worker::{Command, CommandSender, Parts, Worker, WorkerError, WorkerReport};

/// The worker thread ended without being told to.
pub type PlaneEnd = WorkerError;

/// A running worker thread.
#[derive(Debug)]
pub(super) struct Plane {
    commands: CommandSender,
    watcher: JoinHandle<()>,
    tun: OwnedFd,
    sockets: Sockets,
    mtu: u16,
    outlets: Outlets,
}

/// Where a worker thread reports to.
#[derive(Debug, Clone)]
pub(super) struct Outlets {
    pub(super) events: mpsc::Sender<DeviceEvent>,
    pub(super) ends: mpsc::UnboundedSender<PlaneEnd>,
}

/// Copies of the UDP sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
    port: u16,
}

impl Plane {
    pub(super) fn start(
        tun: TunQueue,
        udp: UdpSockets,
        mtu: u16,
        outlets: Outlets,
        inheritance: Option<Inheritance>,
    ) -> Result<Self, ChangeError> {
        let system = |what: &str| {
            let what = what.to_owned();
            move |source| ChangeError::System { what, source }
        };
        let copy = tun.as_fd().try_clone_to_owned().map_err(system("copy the TUN's descriptor"))?;
        let sockets = Sockets::of(&udp).map_err(system("copy a UDP socket's descriptor"))?;
        let parts = Parts { tun, udp, mtu, events: outlets.events.clone(), inheritance };
        let mut handle = Worker::spawn(parts).map_err(|error| ChangeError::System {
            what: "start the data plane".into(),
            source: io::Error::other(error),
        })?;
        let commands = handle.commands();
        let ends = outlets.ends.clone();
        let watcher = tokio::spawn(async move {
            if let Err(error) = handle.ended().await {
                // Nobody listens any more only while the process ends.
                let _ = ends.send(error);
            }
        });
        Ok(Self { commands, watcher, tun: copy, sockets, mtu, outlets })
    }

    /// Moves the device to other sockets, with `config`; all sessions start anew. The plane before goes on until
    /// the next one has accepted the configuration.
    pub(super) async fn rebind(&mut self, udp: UdpSockets, config: Config) -> Result<(), ChangeError> {
        let mut next = Self::start(self.reopen_tun()?, udp, self.mtu, self.outlets.clone(), None)?;
        let accepted = next.apply(config).await;
        if accepted.is_ok() {
            std::mem::swap(self, &mut next);
        }
        next.stop().await;
        accepted.map(drop)
    }

    fn reopen_tun(&self) -> Result<TunQueue, ChangeError> {
        let failed = |source| ChangeError::System { what: "copy the TUN's descriptor".into(), source };
        let tun = self.tun.try_clone().map_err(failed)?;
        TunQueue::from_fd(tun).map_err(|error| failed(io::Error::other(error)))
    }

    async fn stop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        let _ = (&mut self.watcher).await;
    }

    pub(super) async fn apply(&self, config: Config) -> Result<PeerChanges, ChangeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Apply { config, reply }).map_err(|_| ChangeError::Stopped)?;
        Ok(answer.await.map_err(|_| ChangeError::Stopped)??)
    }

    pub(super) async fn report(&self) -> Result<WorkerReport, ChangeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Report { reply }).map_err(|_| ChangeError::Stopped)?;
        answer.await.map_err(|_| ChangeError::Stopped)
    }

    /// Hands the device over to the data plane at the other end of `link`. The answer says how that ended; it
    /// never comes from a plane that ends before.
    pub(super) fn leave(&self, link: OwnedFd) -> Result<oneshot::Receiver<Outcome>, ChangeError> {
        let (outcome, answer) = oneshot::channel();
        self.commands.send(Command::Leave { link, outcome }).map_err(|_| ChangeError::Stopped)?;
        Ok(answer)
    }

    pub(super) fn port(&self) -> u16 {
        self.sockets.port
    }

    /// Tells the data plane which MTU the device has now, in bytes. Sessions stay.
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
        // A data plane that has ended is replaced by one that starts with it.
        let _ = self.commands.send(Command::Mtu(mtu));
    }

    pub(super) fn sockets(&self) -> &Sockets {
        &self.sockets
    }
}

impl Sockets {
    fn of(udp: &UdpSockets) -> io::Result<Self> {
        let v4 = udp.v4().as_fd().try_clone_to_owned()?;
        let v6 = udp.v6().map(|socket| socket.as_fd().try_clone_to_owned()).transpose()?;
        Ok(Self { v4, v6, port: udp.port() })
    }

    /// Sets the mark of all datagrams; 0 for none.
    pub(super) fn set_mark(&self, mark: u32) -> Result<(), ChangeError> {
        for socket in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            SockRef::from(socket).set_mark(mark).map_err(|source| ChangeError::System {
                what: "set the firewall mark (CAP_NET_ADMIN is needed)".into(),
                source,
            })?;
        }
        Ok(())
    }

    /// Has the parent keep them.
    pub(super) fn keep(&self, descriptors: &Descriptors) -> io::Result<()> {
        descriptors.keep(slot::UDP4, self.v4.as_fd())?;
        match &self.v6 {
            Some(v6) => descriptors.keep(slot::UDP6, v6.as_fd()),
            None => descriptors.forget(slot::UDP6),
        }
    }
}

/// The queue of the worker before, or a new one, which the parent then keeps; and whether the device is new.
pub(super) fn open_tun(
    descriptors: &Descriptors,
    name: &str,
    persistent: bool,
) -> Result<(TunQueue, bool), TunError> {
    match descriptors.take(slot::TUN).map(TunQueue::from_fd) {
        Some(Ok(tun)) => return Ok((tun, false)),
        // Deleted while no worker was there to see it.
        Some(Err(error)) => tracing::warn!(%error, device = name, "the device is gone; making it again"),
        None => {}
    }
    let is_new = nix::net::if_::if_nametoindex(name).is_err();
    let tun = TunQueue::open(name)?;
    tun.set_persistent(persistent)?;
    descriptors.keep(slot::TUN, tun.as_fd()).map_err(|source| TunError::Setup {
        what: "keeping",
        name: name.into(),
        source,
    })?;
    Ok((tun, is_new))
}

/// The sockets of the worker before if they have the right port, or new ones.
pub(super) fn open_udp(descriptors: &Descriptors, port: u16) -> Result<UdpSockets, ChangeError> {
    if let Some(v4) = descriptors.take(slot::UDP4) {
        let udp = UdpSockets::from_fds(v4, descriptors.take(slot::UDP6)).map_err(udp_error)?;
        if port == 0 || udp.port() == port {
            return Ok(udp);
        }
    }
    bind(port)
}

pub(super) fn bind(port: u16) -> Result<UdpSockets, ChangeError> {
    UdpSockets::bind(port).map_err(udp_error)
}

fn udp_error(source: UdpError) -> ChangeError {
    let cause = std::error::Error::source(&source).and_then(|source| source.downcast_ref::<io::Error>());
    let remedy = match cause.and_then(io::Error::raw_os_error) {
        Some(libc::EADDRINUSE) => "; another program uses the port: stop it, or choose another port",
        Some(libc::EACCES) => "; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one",
        _ => "",
    };
    ChangeError::Udp { source, remedy }
}
