//! Requests to the API server, made on the agent's main runtime: connections there live on whatever a controller's own
//! thread does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::api::PatchParams;
use tokio::runtime::Handle;

use super::control::{Outcome, Unmet};
use super::servers::{self, Servers};
use crate::api_server::{self, Clients};
use crate::cause;
use crate::config::Config;

/// The API server has this long for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How controllers ask the API server. All clones are one.
#[derive(Clone)]
pub(super) struct Api {
    clients: Arc<Mutex<Clients>>,
    servers: Arc<Servers>,
    runtime: Handle,
}

impl Api {
    /// Connects by the configuration, on the calling runtime; to another of the `servers` where that one does not accept.
    pub(super) async fn connect(config: &Config, servers: Servers) -> anyhow::Result<Self> {
        let clients = clients(config, &servers, None).await?;
        let (clients, servers) = (Arc::new(Mutex::new(clients)), Arc::new(servers));
        Ok(Self { clients, servers, runtime: Handle::current() })
    }

    /// One with a client of a test's own, on the calling runtime.
    #[cfg(test)]
    pub(super) fn of(client: Client) -> Self {
        let clients = Clients { questions: client.clone(), watches: client, server: None };
        let servers = Arc::new(Servers::open("/nonexistent".into()));
        Self { clients: Arc::new(Mutex::new(clients)), servers, runtime: Handle::current() }
    }

    /// Leaves all present connections, which may be dead; connects to another server than `dead`, if one is named.
    pub(super) async fn reconnect(&self, config: &Config, dead: Option<SocketAddr>) -> anyhow::Result<()> {
        let clients = clients(config, &self.servers, dead).await?;
        *self.clients() = clients;
        Ok(())
    }

    /// The API servers that are known.
    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// For questions and writes: what the API server is too busy for is asked again.
    pub(super) fn client(&self) -> Client {
        self.clients().questions.clone()
    }

    /// For watches, which are begun again by themselves.
    pub(super) fn watching(&self) -> Client {
        self.clients().watches.clone()
    }

    /// Where the API server is, if that is said by an address.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.clients().server
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `request` on the main runtime and waits for its answer, for a bounded time.
    pub(super) async fn ask<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, String>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, kube::Error>> + Send + 'static,
    {
        let request = request(self.client());
        let bounded = async move {
            match tokio::time::timeout(PATIENCE, request).await {
                Ok(answer) => answer.map_err(|error| cause::told(&error)),
                Err(_) => Err(format!("the API server has not answered within {PATIENCE:?}")),
            }
        };
        match self.runtime.spawn(bounded).await {
            Ok(answer) => answer,
            Err(error) => Err(format!("the request was cut short: {error}")),
        }
    }

    /// Runs `task` on the main runtime, and leaves it alone.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(task));
    }
}

async fn clients(config: &Config, servers: &Servers, dead: Option<SocketAddr>) -> anyhow::Result<Clients> {
    let configured = api_server::configuration(config.agent.kubeconfig.as_deref(), "agent").await?;
    let at = api_server::address(&configured.cluster_url);
    let other = servers::choose(&servers.get(), at, dead).await;
    if let Some(other) = other {
        tracing::warn!(configured = %configured.cluster_url, server = %other, "connecting to another API server");
    }
    api_server::connect(configured, other)
}

/// Parameters of the agent's writes.
pub(super) fn patching() -> PatchParams {
    PatchParams { field_manager: Some("selvedge-agent".into()), ..PatchParams::default() }
}

/// What became of a write that counts only if the object is still as it was seen.
pub(super) enum Written {
    /// It is done; for people.
    Done(String),
    /// Somebody changed the object in between (409).
    Conflict,
}

impl Written {
    /// After a conflict the write is retried soon. The object's new version arrives as an event, but need not be a trigger: a
    /// kubelet's heartbeat is none.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Done(what) => Ok(vec![what]),
            Self::Conflict => Err(Unmet::waiting("the Node object changed during a write, retrying")),
        }
    }
}

/// Takes a conflict out of the errors. `what` was written.
pub(super) fn unless_changed<T>(
    written: Result<T, kube::Error>,
    what: String,
) -> Result<Written, kube::Error> {
    match written {
        Ok(_) => Ok(Written::Done(what)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Written::Conflict),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_conflict_is_retried_and_is_no_failure() {
        let refused = |code| kube::Error::Api(Box::new(Status { code, ..Status::default() }));
        let conflict = unless_changed::<()>(Err(refused(409)), "it".into()).unwrap();
        assert!(matches!(conflict.outcome(), Err(Unmet::Waiting(_))));
        assert!(unless_changed::<()>(Err(refused(403)), "it".into()).is_err());
        assert_eq!(unless_changed(Ok(()), "it".into()).unwrap().outcome(), Ok(vec!["it".to_owned()]));
    }
}
