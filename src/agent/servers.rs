//! The API servers of the cluster, as its Service `default/kubernetes` names them: where to turn when the one in use does not
//! answer. They are on disk, because without this agent there may be no way to ask.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use selvedge_keys::durable;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Addresses that are remembered. Control planes have three or five.
const MOST: usize = 16;
/// An API server has this long to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// What is known of the API servers.
#[derive(Debug)]
pub(super) struct Servers {
    file: PathBuf,
    known: Mutex<Vec<SocketAddr>>,
}

impl Servers {
    /// Loads the addresses that the last agent saved. A file that is missing or damaged counts as empty.
    pub(super) fn open(file: PathBuf) -> Self {
        let known = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "the addresses of the API servers are damaged");
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        Self { file, known: Mutex::new(known) }
    }

    pub(super) fn get(&self) -> Vec<SocketAddr> {
        self.known().clone()
    }

    /// Saves these addresses. An empty list is ignored: it came from an API server, so there is at least one.
    pub(super) fn set(&self, servers: impl IntoIterator<Item = SocketAddr>) -> anyhow::Result<()> {
        let mut servers: Vec<SocketAddr> = servers.into_iter().collect();
        servers.sort_unstable();
        servers.dedup();
        servers.truncate(MOST);
        if servers.is_empty() || *self.known() == servers {
            return Ok(());
        }
        let text = serde_json::to_vec(&servers).context("write the API servers as JSON")?;
        let written = durable::write(&self.file, 0o600, &text);
        written.with_context(|| format!("cannot write {}", self.file.display()))?;
        tracing::info!(?servers, "the cluster's API servers");
        *self.known() = servers;
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A known server that accepts connections, in place of `dead` and of the configured one. None where no other does, or where the
/// configured one does and is not dead.
pub(super) async fn choose(
    servers: &[SocketAddr],
    configured: Option<SocketAddr>,
    dead: Option<SocketAddr>,
) -> Option<SocketAddr> {
    let is_other = |server: &&SocketAddr| Some(**server) != configured && Some(**server) != dead;
    let others: Vec<SocketAddr> = servers.iter().filter(is_other).copied().collect();
    let stays = match configured {
        Some(configured) => Some(configured) != dead && accepts(configured).await,
        // A name, which may be that of a load balancer.
        None => dead.is_none(),
    };
    if others.is_empty() || stays {
        return None;
    }
    for server in others {
        if accepts(server).await {
            return Some(server);
        }
    }
    None
}

async fn accepts(server: SocketAddr) -> bool {
    matches!(timeout(CONNECT, TcpStream::connect(server)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_outlives_the_agent_and_nothing_is_no_news() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("servers.json");
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let servers = Servers::open(file.clone());
        assert_eq!(servers.get(), []);
        servers.set([at("192.0.2.2:6443"), at("192.0.2.1:6443"), at("192.0.2.2:6443")]).unwrap();
        servers.set([]).unwrap();
        let both = [at("192.0.2.1:6443"), at("192.0.2.2:6443")];
        assert_eq!(servers.get(), both);
        assert_eq!(Servers::open(file.clone()).get(), both);
        std::fs::write(&file, "[\"192.0").unwrap();
        let damaged = Servers::open(file.clone());
        assert_eq!(damaged.get(), []);
        damaged.set(both).unwrap();
        assert_eq!(Servers::open(file).get(), both);
    }

    #[tokio::test]
    async fn another_server_is_chosen_where_it_accepts_and_the_configured_one_is_dead() {
        let listen = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, two) = (listen().await, listen().await);
        let [one_at, two_at] = [&one, &two].map(|listener| listener.local_addr().unwrap());
        let closed = {
            let listener = listen().await;
            listener.local_addr().unwrap()
        };
        let known = [closed, one_at, two_at];
        assert_eq!(choose(&known, Some(one_at), None).await, None);
        assert_eq!(choose(&known, Some(one_at), Some(one_at)).await, Some(two_at));
        assert_eq!(choose(&known, Some(closed), None).await, Some(one_at));
        assert_eq!(choose(&known, Some(closed), Some(one_at)).await, Some(two_at));
        assert_eq!(choose(&[closed], Some(closed), Some(closed)).await, None);
        assert_eq!(choose(&known, None, None).await, None);
    }
}
