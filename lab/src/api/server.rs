//! The server: sockets, TLS and connections, and the handle that tests and the lab hold.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access::{User, kubeconfig};
use super::audit::Record;
use super::counters::{Count, Counted};
use super::fault::{Fault, Injected};
use super::handler;
use super::state::{Mode, Options, State};
use super::store::Store;
use super::tls::{Tls, TlsError};

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
        let server = Self { state: Arc::new(State::new(options)), tls, end: CancellationToken::new() };
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

    /// Requests answered and bytes sent since the start. Unlike [`requests`](Self::requests) they are complete.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Counted, Count> {
        self.state.counters.read()
    }

    /// Makes something go wrong, until the value returned is dropped.
    pub fn inject(&self, fault: Fault) -> Injected {
        self.state.faults.inject(fault)
    }

    /// Takes the server down or back up; what it stores stays.
    pub fn set_mode(&self, mode: Mode) {
        self.state.set_mode(mode);
    }

    /// Breaks the running watches off, as a lost connection does.
    pub fn cut_watches(&self) {
        self.state.cut_watches();
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
        let tls = match state.mode() {
            Mode::Refusing => {
                drop(stream.set_zero_linger());
                continue;
            }
            Mode::Ahead => tls.ahead.clone(),
            Mode::Serving | Mode::Hanging => tls.right.clone(),
        };
        let cut = state.connections();
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
