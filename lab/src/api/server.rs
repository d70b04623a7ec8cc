//! The server: sockets, TLS and connections, and the handle that tests and the lab hold.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access::{User, Users, kubeconfig};
use super::audit::{Log, Record};
use super::failure::Failure;
use super::fault::{Fault, Faults, Injected};
use super::handler;
use super::resource::Resource;
use super::store::Store;
use super::tls::{Tls, TlsError};

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Decides on a write, and may change the object: to schedule a pod, say, or to refuse a change of annotations.
///
/// Called for every create, update and patch that comes over HTTP, with the object about to be stored. It runs while
/// the store is locked and must not call it.
pub type Admission = Arc<dyn Fn(&Review<'_>, &mut Value) -> Result<(), Failure> + Send + Sync>;

/// What an [`Admission`] decides on.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// Who writes.
    pub user: &'a User,
    /// The resource.
    pub resource: &'static Resource,
    /// `status`, `binding` or empty.
    pub subresource: &'a str,
    /// The object so far; none when it is created.
    pub before: Option<&'a Value>,
}

/// Settings of a server.
#[derive(Clone)]
pub struct Options {
    /// DNS names and IP addresses for the certificate, beside those of loopback.
    pub names: Vec<String>,
    /// How many changes watches can go back.
    pub history: usize,
    /// How often a watch that allows bookmarks gets one.
    pub bookmarks: Duration,
    /// Whether a pod bound to a node stays, as terminating, until its node deletes it with no grace period.
    pub graceful_pods: bool,
    /// Decides on writes.
    pub admission: Option<Admission>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            history: 10_000,
            bookmarks: Duration::from_secs(10),
            graceful_pods: false,
            admission: None,
        }
    }
}

/// Whether the server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As usual.
    Serving,
    /// Connections are reset, present ones and new ones: the server is down.
    Refusing,
    /// Connections stay and new ones are accepted, but no request is answered and no watch tells anything.
    Hanging,
    /// Its clock is an hour ahead of its clients': present connections are reset, and the certificate that new ones are
    /// shown is not valid yet.
    Ahead,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listening socket cannot be used.
    #[error("cannot serve the API on this socket: {0}")]
    Socket(#[from] io::Error),
}

/// A running API server. Dropped, it ends with all its connections.
pub struct Server {
    state: Arc<State>,
    tls: Arc<Tls>,
    end: CancellationToken,
}

/// What the requests share.
pub(super) struct State {
    pub(super) store: Arc<Store>,
    pub(super) users: Users,
    pub(super) log: Log,
    pub(super) faults: Faults,
    pub(super) options: Options,
    mode: watch::Sender<Mode>,
    connections: Mutex<CancellationToken>,
    watches: Mutex<CancellationToken>,
}

impl Server {
    /// Starts a server with an empty store on these sockets, which may be of any network namespace. Call it on a tokio
    /// runtime with I/O and time.
    ///
    /// # Errors
    /// A name is no DNS name or IP address, or a socket is none that listens.
    pub fn start(listeners: Vec<std::net::TcpListener>, options: Options) -> Result<Self, StartError> {
        let mut names = options.names.clone();
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        let tls = Arc::new(Tls::create(&names)?);
        let state = State {
            store: Store::new(options.history),
            users: Users::default(),
            log: Log::default(),
            faults: Faults::default(),
            options,
            mode: watch::Sender::new(Mode::Serving),
            connections: Mutex::default(),
            watches: Mutex::default(),
        };
        let server = Self { state: Arc::new(state), tls, end: CancellationToken::new() };
        for listener in listeners {
            server.listen(listener)?;
        }
        Ok(server)
    }

    /// Serves on one more socket.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking or registered.
    pub fn listen(&self, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let serving = accept(Arc::clone(&self.state), Arc::clone(&self.tls), listener, self.end.clone());
        let end = self.end.clone();
        tokio::spawn(async move { end.run_until_cancelled(serving).await });
        Ok(())
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.state.store
    }

    /// Lets a user in, by the token returned; an earlier token of that name is void.
    pub fn add_user(&self, user: User) -> String {
        self.state.users.add(user)
    }

    /// A kubeconfig for the user of that name, who becomes an admin if unknown, and a server URL such as
    /// `https://127.0.0.1:6443`.
    #[must_use]
    pub fn kubeconfig(&self, user: &str, url: &str) -> String {
        let users = &self.state.users;
        let token = users.token(user).unwrap_or_else(|| users.add(User::admin(user)));
        kubeconfig(&self.tls.ca, url, user, &token)
    }

    /// The certificate to trust, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.tls.ca
    }

    /// The last requests answered, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Record> {
        self.state.log.records()
    }

    /// Makes something go wrong, until the value returned is dropped.
    pub fn inject(&self, fault: Fault) -> Injected {
        self.state.faults.inject(fault)
    }

    /// Takes the server down or back up; what it stores stays.
    pub fn set_mode(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
        if matches!(mode, Mode::Refusing | Mode::Ahead) {
            renew(&self.state.connections);
        }
    }

    /// Breaks the running watches off, as a lost connection does.
    pub fn cut_watches(&self) {
        renew(&self.state.watches);
    }

    /// Forgets the history, so that no watch can resume from before this moment; see [`Store::expire_history`].
    pub fn expire_history(&self) {
        self.state.store.expire_history();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl State {
    /// Waits while the server hangs.
    pub(super) async fn responsive(&self) {
        // The sender is part of this very value, so it cannot be gone.
        drop(self.mode.subscribe().wait_for(|mode| *mode != Mode::Hanging).await);
    }

    /// Cancelled when the watches that run now are to break off.
    pub(super) fn watches(&self) -> CancellationToken {
        current(&self.watches)
    }
}

fn current(token: &Mutex<CancellationToken>) -> CancellationToken {
    token.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn renew(token: &Mutex<CancellationToken>) {
    std::mem::take(&mut *token.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
}

async fn accept(state: Arc<State>, tls: Arc<Tls>, listener: TcpListener, end: CancellationToken) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the API server cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let tls = match *state.mode.borrow() {
            Mode::Refusing => {
                drop(stream.set_zero_linger());
                continue;
            }
            Mode::Ahead => tls.ahead.clone(),
            Mode::Serving | Mode::Hanging => tls.right.clone(),
        };
        let cut = current(&state.connections);
        let connection = serve(Arc::clone(&state), tls, stream);
        let end = end.clone();
        tokio::spawn(async move { end.run_until_cancelled(cut.run_until_cancelled(connection)).await });
    }
}

async fn serve(state: Arc<State>, tls: TlsAcceptor, stream: TcpStream) {
    // Small answers should not wait for the acknowledgement of the one before; without it all still works.
    drop(stream.set_nodelay(true));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
    let service = service_fn(|request| handler::serve(Arc::clone(&state), request));
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the API server broke off");
    }
}
