//! The one place that changes a device and tells how it is.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use tokio::sync::{Mutex, broadcast, mpsc, oneshot};
use tracing::{info, warn};

use super::ChangeError;
use super::keep::{Draft, Roamed, Writes, keep_in_memory, load, read_memory};
use super::link::{self, MtuWatch};
use super::plane::{Outlets, Plane, PlaneEnd, bind, open_tun, open_udp};
use super::resolve::resolve;
use super::wire::{counters, features};
use crate::paths::Paths;
use crate::tunnel::api::{Applied, DeviceConfig, DeviceStatus, Event, PeerConfig, RETIRED_KEYS};
use crate::tunnel::descriptors::{Descriptors, slot};
use crate::tunnel::device::DeviceEvent;
use crate::tunnel::device::config::{Config, Peer, PeerChanges};
use crate::tunnel::handover::{Inheritance, Outcome};
use crate::tunnel::options::{DEFAULT_MTU, Options};
use crate::tunnel::uapi::{self, Request, Set, Settings, Shown};
use crate::tunnel::worker::WorkerReport;

/// Events that wait for the worst of the listeners.
const EVENTS: usize = 1024;

/// The engine of one device.
#[derive(Debug)]
pub struct Engine {
    options: Options,
    paths: Paths,
    descriptors: Descriptors,
    events: broadcast::Sender<Event>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plane: Plane,
    mode: Mode,
    wanted: Wanted,
    roamed: Roamed,
    /// The data plane before, in another process, is still there.
    is_taking: bool,
}

#[derive(Debug)]
enum Mode {
    Standalone(Settings),
    Managed(Option<DeviceConfig>),
}

/// What the data plane is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    config: Config,
    port: u16,
    mark: u32,
    /// None: it stays as it is.
    mtu: Option<u16>,
}

/// An engine that runs, and what comes out of it.
#[derive(Debug)]
pub struct Start {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Says why the data plane ended, if it does so by itself.
    pub ends: mpsc::UnboundedReceiver<PlaneEnd>,
}

impl Engine {
    /// Takes over what the worker before has left, or starts anew: device, sockets, configuration.
    ///
    /// # Errors
    /// When the device or the sockets cannot be had. A kept configuration that cannot be applied any more is
    /// warned of and left out.
    pub async fn start(options: Options, paths: Paths, descriptors: Descriptors) -> anyhow::Result<Start> {
        let mode = kept_mode(&options, &paths, &descriptors);
        let roamed: Roamed = descriptors
            .take(slot::ROAMED)
            .and_then(|descriptor| read_memory(descriptor).ok())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let (port, mark) = mode.transport(&options);
        let (tun, is_new) = open_tun(&descriptors, &options.name, options.persistent)?;
        let udp = open_udp(&descriptors, port)?;
        let mtu = mode.mtu(&options, is_new, descriptors.restarts == 0);
        let device_mtu = link::set_up(&options.name, mtu, options.managed).await?.unwrap_or(DEFAULT_MTU);
        if is_new && !options.managed {
            link::withhold_link_local(&options.name).await;
        }
        let watch = MtuWatch::new(tun.as_fd().try_clone_to_owned()?);
        let (events, from_worker) = mpsc::channel(EVENTS);
        let (ends_sender, ends) = mpsc::unbounded_channel();
        let (taken_sender, taken) = oneshot::channel();
        let inheritance = descriptors.take(slot::LINK).map(|link| Inheritance { link, taken: taken_sender });
        let is_taking = inheritance.is_some();
        let plane = Plane::start(tun, udp, device_mtu, Outlets { events, ends: ends_sender }, inheritance)?;
        if mark != 0 {
            plane.sockets().set_mark(mark)?;
        }
        plane.sockets().keep(&descriptors)?;
        let wanted = Wanted { config: Config::default(), port, mark, mtu: None };
        let state = State { plane, mode, wanted, roamed, is_taking };
        let (events, _) = broadcast::channel(EVENTS);
        let engine = Arc::new(Self { options, paths, descriptors, events, state: Mutex::new(state) });
        engine.apply_kept().await;
        tokio::spawn(Arc::clone(&engine).pump(from_worker));
        tokio::spawn(Arc::clone(&engine).follow_mtu(watch));
        if is_taking {
            tokio::spawn(Arc::clone(&engine).take(taken));
        }
        Ok(Start { engine, ends })
    }

    /// Has the data plane go by the MTU that the device has, until the device is gone.
    async fn follow_mtu(self: Arc<Self>, mut watch: MtuWatch) {
        loop {
            match watch.next().await {
                Ok(mtu) => self.state.lock().await.plane.set_mtu(mtu),
                // The data plane ends with its device.
                Err(error) if error.is_gone() => return,
                Err(error) => {
                    warn!(%error, device = self.options.name, "no longer following the device's MTU");
                    return;
                }
            }
        }
    }

    /// Tells the parent when the device is ours alone.
    async fn take(self: Arc<Self>, taken: oneshot::Receiver<()>) {
        // The data plane ended before: whoever waits for its end knows.
        let Ok(()) = taken.await else { return };
        self.state.lock().await.is_taking = false;
        info!(device = self.options.name, "took the device over");
        if let Err(error) = self.descriptors.taken() {
            warn!(%error, "cannot tell the parent process");
        }
    }

    /// Hands the device over to the tunnel process at the other end of `link`. Nobody may ask for changes meanwhile.
    pub async fn leave(&self, link: OwnedFd) -> Outcome {
        let answer = self.state.lock().await.plane.leave(link);
        match answer {
            Ok(answer) => answer.await.unwrap_or(Outcome::Stayed),
            Err(_) => Outcome::Stayed,
        }
    }

    /// The store of the parent.
    #[must_use]
    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// A new listener to events; it is told how many it missed if it is too slow.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The configuration last accepted over the control API.
    ///
    /// # Errors
    /// When the tunnel is standalone; `None` when there was none yet.
    pub async fn config(&self) -> Result<Option<DeviceConfig>, ChangeError> {
        match &self.state.lock().await.mode {
            Mode::Managed(config) => Ok(config.clone()),
            Mode::Standalone(_) => Err(standalone()),
        }
    }

    /// Makes `config` the whole configuration and keeps it.
    ///
    /// # Errors
    /// When it cannot be carried out; then nothing of it is.
    pub async fn configure(&self, config: DeviceConfig) -> Result<Applied, ChangeError> {
        let mut state = self.state.lock().await;
        self.configure_locked(&mut state, config).await
    }

    /// One peer of the configuration last accepted.
    ///
    /// # Errors
    /// When the tunnel is standalone; `None` when there is no such peer.
    pub async fn peer(&self, name: &str) -> Result<Option<PeerConfig>, ChangeError> {
        match &self.state.lock().await.mode {
            Mode::Managed(config) => {
                let mut peers = config.iter().flat_map(|config| &config.peers);
                Ok(peers.find(|peer| peer.name == name).cloned())
            }
            Mode::Standalone(_) => Err(standalone()),
        }
    }

    /// Adds or replaces one peer.
    ///
    /// # Errors
    /// As [`Engine::configure`]; or when there is no configuration yet.
    pub async fn put_peer(&self, peer: PeerConfig) -> Result<Applied, ChangeError> {
        self.edit(|config| match config.peers.iter_mut().find(|other| other.name == peer.name) {
            Some(found) => *found = peer,
            None => config.peers.push(peer),
        })
        .await
    }

    /// Removes one peer; one that is not there is removed already.
    ///
    /// # Errors
    /// As [`Engine::put_peer`].
    pub async fn delete_peer(&self, name: &str) -> Result<Applied, ChangeError> {
        self.edit(|config| config.peers.retain(|peer| peer.name != name)).await
    }

    /// How the device is.
    ///
    /// # Errors
    /// While the data plane starts again.
    pub async fn status(&self) -> Result<DeviceStatus, ChangeError> {
        let state = self.state.lock().await;
        let report = state.plane.report().await?;
        let features = features(&report);
        let WorkerReport { device, .. } = report;
        Ok(DeviceStatus {
            device: self.options.name.clone(),
            managed: self.options.managed,
            listen_port: state.plane.port(),
            identities: device.identities.into_iter().map(Into::into).collect(),
            features,
            peers: device.peers.into_iter().map(Into::into).collect(),
            counters: counters(&device.counters, self.descriptors.restarts),
            capabilities: vec![RETIRED_KEYS.into()],
        })
    }

    async fn edit(&self, change: impl FnOnce(&mut DeviceConfig)) -> Result<Applied, ChangeError> {
        let mut state = self.state.lock().await;
        let mut config = match &state.mode {
            Mode::Managed(Some(config)) => config.clone(),
            Mode::Managed(None) => return Err(ChangeError::NoConfig),
            Mode::Standalone(_) => return Err(standalone()),
        };
        change(&mut config);
        self.configure_locked(&mut state, config).await
    }

    async fn configure_locked(
        &self,
        state: &mut State,
        config: DeviceConfig,
    ) -> Result<Applied, ChangeError> {
        let Mode::Managed(before) = &state.mode else { return Err(standalone()) };
        let same = before.as_ref() == Some(&config);
        let path = self.paths.tunnel_config(&self.options.name);
        let failed = |source| ChangeError::System { what: format!("write {}", path.display()), source };
        let draft = if same { None } else { Some(Draft::write(&config, &path).map_err(failed)?) };
        let wanted = Wanted {
            config: resolve(&config)?,
            port: config.listen_port,
            mark: config.firewall_mark.unwrap_or(0),
            mtu: Some(config.mtu),
        };
        let changes = self.install(state, wanted).await?;
        state.mode = Mode::Managed(Some(config));
        draft.map_or(Ok(()), Draft::accept).map_err(failed)?;
        Ok(changes.into())
    }

    /// Makes the data plane what is wanted, or leaves it as it is.
    async fn install(&self, state: &mut State, wanted: Wanted) -> Result<PeerChanges, ChangeError> {
        // A port that was free for the taking may be the one that is asked for now.
        let here = [state.wanted.port, state.plane.port()].contains(&wanted.port);
        if state.is_taking && !here {
            return Err(ChangeError::HandingOver);
        }
        let applied = if here {
            self.install_here(state, &wanted).await?
        } else {
            self.install_elsewhere(state, &wanted).await?
        };
        let set_up = link::set_up(&self.options.name, wanted.mtu, self.options.managed).await;
        if let Err(error) = set_up {
            warn!(%error, device = self.options.name, "cannot set up the device");
        }
        state.roamed.configure(wanted.config.peers.iter());
        state.wanted = wanted;
        Ok(applied)
    }

    /// On the sockets there are.
    async fn install_here(&self, state: &mut State, wanted: &Wanted) -> Result<PeerChanges, ChangeError> {
        let before = state.wanted.mark;
        if wanted.mark != before {
            state.plane.sockets().set_mark(wanted.mark)?;
        }
        let applied = match state.plane.apply(state.with_places(&wanted.config)).await {
            Ok(applied) => applied,
            Err(error) => {
                // Cannot fail where setting the new one did not.
                let _ = state.plane.sockets().set_mark(before);
                return Err(error);
            }
        };
        Ok(applied)
    }

    /// On sockets of another port.
    async fn install_elsewhere(
        &self,
        state: &mut State,
        wanted: &Wanted,
    ) -> Result<PeerChanges, ChangeError> {
        let udp = bind(wanted.port)?;
        if wanted.mark != 0 {
            udp.set_mark(wanted.mark).map_err(|source| ChangeError::Udp { source, remedy: "" })?;
        }
        let config = state.with_places(&wanted.config);
        state.plane.rebind(udp, config).await?;
        info!(port = state.plane.port(), "the data plane runs anew");
        let kept = state.plane.sockets().keep(&self.descriptors);
        kept.map_err(|source| ChangeError::System { what: "keep the sockets".into(), source })?;
        Ok(difference(&state.wanted.config, &wanted.config))
    }

    async fn apply_kept(&self) {
        let mut state = self.state.lock().await;
        let config = match &state.mode {
            Mode::Managed(None) => return,
            Mode::Managed(Some(config)) => resolve(config),
            Mode::Standalone(settings) => Ok(settings.resolve()),
        };
        let result = match config {
            Ok(config) => {
                let wanted = Wanted { config, ..state.wanted.clone() };
                self.install(&mut state, wanted).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            warn!(%error, "the kept configuration cannot be applied");
        }
    }

    /// Passes events on, and keeps where peers are.
    async fn pump(self: Arc<Self>, mut events: mpsc::Receiver<DeviceEvent>) {
        let mut writes = Writes::default();
        loop {
            let due = writes.due(Instant::now());
            let event = tokio::select! {
                event = events.recv() => event,
                () = until(due) => {
                    self.keep_places().await;
                    writes.written(Instant::now());
                    continue;
                }
            };
            let Some(event) = event else { return };
            if let DeviceEvent::Roamed { peer, endpoint } = &event
                && self.state.lock().await.roamed.note(peer, *endpoint)
            {
                writes.want();
            }
            // Without a listener nobody needs it.
            let _ = self.events.send(event.into());
        }
    }

    /// Has the parent keep where peers are.
    async fn keep_places(&self) {
        let places = serde_json::to_vec(&self.state.lock().await.roamed);
        let kept = places
            .map_err(std::io::Error::from)
            .and_then(|bytes| keep_in_memory(&self.descriptors, slot::ROAMED, &bytes));
        if let Err(error) = kept {
            warn!(%error, "cannot keep where a peer is");
        }
    }
}

impl State {
    /// `config` as the data plane gets it, with where peers were heard.
    fn with_places(&self, config: &Config) -> Config {
        Config { heard: self.roamed.places(config), ..config.clone() }
    }
}

/// Waits until `time`; for ever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

fn by_name(config: &Config) -> HashMap<&str, &Peer> {
    config.peers.iter().map(|peer| (peer.name.as_str(), peer)).collect()
}

/// What a configuration changes, by the names of peers.
fn difference(before: &Config, after: &Config) -> PeerChanges {
    let (old, new) = (by_name(before), by_name(after));
    let names = |config: &Config, keep: &dyn Fn(&Peer) -> bool| {
        config.peers.iter().filter(|peer| keep(peer)).map(|peer| peer.name.clone()).collect()
    };
    PeerChanges {
        added: names(after, &|peer| !old.contains_key(peer.name.as_str())),
        changed: names(after, &|peer| old.get(peer.name.as_str()).is_some_and(|old| *old != peer)),
        removed: names(before, &|peer| !new.contains_key(peer.name.as_str())),
    }
}

impl Mode {
    /// Port and mark to start with.
    fn transport(&self, options: &Options) -> (u16, u32) {
        match self {
            Self::Standalone(settings) => (settings.listen_port, settings.fwmark),
            Self::Managed(None) => (options.listen_port, options.firewall_mark),
            Self::Managed(Some(config)) => (config.listen_port, config.firewall_mark.unwrap_or(0)),
        }
    }

    /// The MTU to set at the start. What a device has that is not new was set by us or by an administrator, and stays;
    /// the option counts once, and not for each worker process.
    fn mtu(&self, options: &Options, is_new: bool, is_first: bool) -> Option<u16> {
        match self {
            Self::Managed(Some(config)) => Some(config.mtu),
            _ if is_new => Some(options.mtu.unwrap_or(DEFAULT_MTU)),
            _ => options.mtu.filter(|_| is_first),
        }
    }
}

fn kept_mode(options: &Options, paths: &Paths, descriptors: &Descriptors) -> Mode {
    if options.managed {
        return Mode::Managed(load(&paths.tunnel_config(&options.name)));
    }
    let kept = descriptors
        .take(slot::SETTINGS)
        .and_then(|descriptor| read_memory(descriptor).ok())
        .and_then(|bytes| uapi::parse(&bytes, &uapi::Numbers).ok());
    Mode::Standalone(match kept {
        Some(Request::Set(set)) => Settings::default().with(&set),
        _ => Settings {
            listen_port: options.listen_port,
            fwmark: options.firewall_mark,
            ..Settings::default()
        },
    })
}

fn standalone() -> ChangeError {
    ChangeError::WrongMode(
        "this tunnel is configured over UAPI; start it with --managed to configure it over this API",
    )
}

impl uapi::Handler for Engine {
    async fn get(&self) -> Result<Shown, Errno> {
        let state = self.state.lock().await;
        let report = state.plane.report().await.map_err(|_| Errno::EAGAIN)?;
        let port = state.plane.port();
        Ok(match &state.mode {
            Mode::Standalone(settings) => Shown::standalone(&report.device, port, settings),
            Mode::Managed(_) => Shown::managed(&report.device, port, state.wanted.mark),
        })
    }

    async fn set(&self, set: Set) -> Result<(), Errno> {
        let mut state = self.state.lock().await;
        let Mode::Standalone(settings) = &state.mode else {
            warn!("refused a UAPI set: an agent manages this device");
            return Err(Errno::EBUSY);
        };
        let next = settings.with(&set);
        let wanted = Wanted { config: next.resolve(), port: next.listen_port, mark: next.fwmark, mtu: None };
        let request = next.to_request();
        if let Err(error) = self.install(&mut state, wanted).await {
            warn!(%error, "refused a UAPI set");
            return Err(errno(&error));
        }
        state.mode = Mode::Standalone(next);
        // The change is made; a worker that dies now comes back without it, and that is said.
        if let Err(error) = keep_in_memory(&self.descriptors, slot::SETTINGS, request.as_bytes()) {
            warn!(%error, "cannot keep the configuration");
        }
        Ok(())
    }
}

/// The number that says best to `wg` what is wrong.
fn errno(error: &ChangeError) -> Errno {
    let source = match error {
        ChangeError::Udp { source, .. } => {
            std::error::Error::source(source).and_then(|source| source.downcast_ref::<std::io::Error>())
        }
        ChangeError::System { source, .. } => Some(source),
        ChangeError::Stopped | ChangeError::HandingOver => return Errno::EAGAIN,
        _ => None,
    };
    source.and_then(std::io::Error::raw_os_error).map_or(Errno::EINVAL, Errno::from_raw)
}
