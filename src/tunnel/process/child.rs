//! The worker process: one thread with a small runtime for the sockets, one that moves packets.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::background;
use super::watch::Identity;

use crate::local;
use crate::paths::Paths;
use crate::tunnel::control::{Engine, PlaneEnd, Start, router};
use crate::tunnel::descriptors::{Descriptors, slot};
use crate::tunnel::handover::Outcome;
use crate::tunnel::options::Options;
use crate::tunnel::uapi;

/// How often the sockets' files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How the worker process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// For good: the device or its socket was removed.
    Done,
    /// To be started again by the parent.
    Again,
    /// Another process has the device now.
    Left,
}

/// Runs the worker process. Its parent is at standard input.
///
/// # Errors
/// When it cannot start.
pub fn run(options: Options, paths: Paths) -> anyhow::Result<Ending> {
    let hello = Descriptors::receive().context("taking over from the parent process")?;
    set_pdeathsig(Signal::SIGKILL).context("asking to be killed with the parent process")?;
    if getppid().as_raw() != hello.parent {
        // It died before the line above could see it.
        return Ok(Ending::Again);
    }
    set_dumpable(false).context("forbidding core dumps, which would hold private keys")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options, paths, hello.descriptors))
}

async fn serve(options: Options, paths: Paths, descriptors: Descriptors) -> anyhow::Result<Ending> {
    let (managed, detached) = (options.managed, options.detached);
    let uapi_path = paths.uapi_socket(&options.name);
    let control_path = paths.tunnel_socket(&options.name);
    let name = options.name.clone();
    let Start { engine, mut ends } = Engine::start(options, paths, descriptors).await?;
    let mut control = Socket::open(&engine, slot::CONTROL, control_path)?;
    let mut uapi = Socket::open(&engine, slot::UAPI, uapi_path)?;
    info!(device = name, managed, socket = %uapi.path.display(), "the tunnel is ready");
    if detached {
        background::move_log();
    }
    engine.descriptors().ready()?;
    let mut requests = engine.descriptors().requests()?;
    loop {
        tokio::select! {
            Some(end) = ends.recv() => return Ok(ending(&engine, managed, &end)),
            link = requests.leave() => {
                info!(device = name, "another tunnel process takes the device over");
                for socket in [&control, &uapi] {
                    socket.rest();
                }
                tokio::select! {
                    Some(end) = ends.recv() => return Ok(ending(&engine, managed, &end)),
                    outcome = engine.leave(link) => if outcome == Outcome::Left {
                        info!(device = name, "the device is handed over");
                        return Ok(Ending::Left);
                    },
                }
                warn!(device = name, "the next tunnel process is gone; going on");
                for socket in [&mut control, &mut uapi] {
                    socket.resume(&engine)?;
                }
                engine.descriptors().stayed()?;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        if !managed && !uapi.is_there() {
            info!(device = name, "the UAPI socket was removed: ending");
            return Ok(Ending::Done);
        }
        for socket in [&mut control, &mut uapi] {
            if !socket.is_there() {
                socket.replace(&engine);
            }
        }
    }
}

fn ending(engine: &Engine, managed: bool, end: &PlaneEnd) -> Ending {
    if !matches!(end, PlaneEnd::TunGone { .. }) {
        error!(error = %end, "the data plane ended; starting anew");
        return Ending::Again;
    }
    if !managed {
        info!(error = %end, "the device was removed: ending");
        return Ending::Done;
    }
    warn!(error = %end, "starting anew");
    // If the parent is gone, so are we.
    let _ = engine.descriptors().forget(slot::TUN);
    Ending::Again
}

/// A listening socket that is served.
struct Socket {
    slot: &'static str,
    path: PathBuf,
    identity: Option<Identity>,
    listener: UnixListener,
    task: JoinHandle<()>,
}

impl Socket {
    /// Serves the socket of the worker before, if its file is still there, or a new one.
    fn open(engine: &Arc<Engine>, slot: &'static str, path: PathBuf) -> anyhow::Result<Self> {
        let identity = Identity::of(&path);
        let before = engine.descriptors().take(slot).map(UnixListener::from);
        let (listener, identity) = match before {
            Some(listener) if identity.is_some() => (listener, identity),
            _ => listen(engine, slot, &path)?,
        };
        let task = spawn(engine, slot, listener.try_clone()?);
        Ok(Self { slot, path, identity, listener, task })
    }

    /// Leaves new connections to another process.
    fn rest(&self) {
        self.task.abort();
    }

    fn resume(&mut self, engine: &Arc<Engine>) -> io::Result<()> {
        self.task = spawn(engine, self.slot, self.listener.try_clone()?);
        Ok(())
    }

    fn is_there(&self) -> bool {
        self.identity.is_some() && Identity::of(&self.path) == self.identity
    }

    /// Somebody took the file away or put another in its place: the agent needs one that is ours.
    fn replace(&mut self, engine: &Arc<Engine>) {
        let anew = listen(engine, self.slot, &self.path);
        match anew.and_then(|(listener, identity)| Ok((listener.try_clone()?, listener, identity))) {
            Ok((copy, listener, identity)) => {
                warn!(socket = %self.path.display(), "the socket had been removed; it is back");
                self.task.abort();
                self.task = spawn(engine, self.slot, copy);
                (self.listener, self.identity) = (listener, identity);
            }
            Err(error) => warn!(%error, "a socket was removed and cannot be put back"),
        }
    }
}

fn listen(engine: &Engine, slot: &str, path: &Path) -> anyhow::Result<(UnixListener, Option<Identity>)> {
    let listener = local::listen(path)?;
    engine.descriptors().keep(slot, listener.as_fd())?;
    Ok((listener, Identity::of(path)))
}

fn spawn(engine: &Arc<Engine>, slot: &'static str, listener: UnixListener) -> JoinHandle<()> {
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        let served: io::Result<()> = if slot == slot::UAPI {
            uapi::serve(listener, engine).await
        } else {
            local::serve(listener, router(&engine)).await
        };
        if let Err(error) = served {
            error!(%error, slot, "cannot serve a socket");
        }
    })
}
