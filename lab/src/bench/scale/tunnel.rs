//! Whether the tunnel has a peer's new state. This is polled, so it has to be cheap for the tunnel.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use memchr::memmem;
use selvedge::local::{Client, encode};
use selvedge::paths::Paths;
use serde_json::Value;

use crate::node::TUNNEL_DEVICE;

/// Pause between two polls: the resolution of the measured times.
pub(super) const LOOK: Duration = Duration::from_millis(4);
const ANSWER: Duration = Duration::from_secs(2);

/// Where the state of the tunnel's peers is read from.
pub(super) enum Peers<'a> {
    /// Its control API, peer by peer.
    Api { client: Client, runtime: &'a tokio::runtime::Runtime },
    /// The file of its accepted configuration, read when it was replaced: for a tunnel whose control API lacks that
    /// route.
    File { path: PathBuf, read: Option<(u64, i64, i64)>, text: Vec<u8> },
}

impl<'a> Peers<'a> {
    /// Chooses between the two by asking for `known`, a peer that the tunnel has.
    pub(super) fn of(paths: &Paths, known: &str, runtime: &'a tokio::runtime::Runtime) -> Self {
        let client = Client::new(&paths.tunnel_socket(TUNNEL_DEVICE)).with_timeout(ANSWER);
        let path = paths.tunnel_config(TUNNEL_DEVICE);
        if runtime.block_on(client.get::<Value>(&route(known))).is_ok() {
            Self::Api { client, runtime }
        } else {
            Self::File { path, read: None, text: Vec::new() }
        }
    }

    /// Name for the report.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Api { .. } => "GET /v1/peers/NAME",
            Self::File { .. } => "accepted configuration",
        }
    }

    /// Reads the file again if it was replaced. To be called before [`has`](Self::has).
    pub(super) fn refresh(&mut self) {
        let Self::File { path, read, text } = self else { return };
        let Ok(found) = std::fs::metadata(&*path) else { return };
        let version = Some((found.ino(), found.mtime(), found.mtime_nsec()));
        if *read != version
            && let Ok(bytes) = std::fs::read(&*path)
        {
            (*read, *text) = (version, bytes);
        }
    }

    /// Whether one of `signs`, texts that belong to no other peer, is in the state of the peer `name`.
    pub(super) fn has(&self, name: &str, signs: &[String]) -> bool {
        match self {
            Self::Api { client, runtime } => {
                let peer = runtime.block_on(client.get::<Value>(&route(name)));
                let text = peer.map(|peer| peer.to_string()).unwrap_or_default();
                signs.iter().any(|sign| text.contains(sign))
            }
            Self::File { text, .. } => signs.iter().any(|sign| memmem::find(text, sign.as_bytes()).is_some()),
        }
    }
}

fn route(peer: &str) -> String {
    format!("/v1/peers/{}", encode(peer))
}

#[cfg(test)]
mod tests {
    use selvedge::local::{self, Method, Response, Router};
    use serde_json::json;

    use super::*;

    fn signs(text: &str) -> Vec<String> {
        vec!["[fd00::1]:40000".to_owned(), text.to_owned()]
    }

    fn paths() -> (tempfile::TempDir, Paths, tokio::runtime::Runtime) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths { run: folder.path().to_owned(), ..Paths::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        (folder, paths, runtime.unwrap())
    }

    #[test]
    fn the_file_is_read_again_when_it_was_replaced() {
        let (folder, paths, runtime) = paths();
        let put = |port: u16| {
            let draft = folder.path().join("draft");
            std::fs::write(&draft, format!(r#"{{"endpoints":["1.1.1.1:{port}"]}}"#)).unwrap();
            std::fs::rename(draft, paths.tunnel_config(TUNNEL_DEVICE)).unwrap();
        };
        put(1);
        let mut peers = Peers::of(&paths, "a", &runtime);
        peers.refresh();
        assert_eq!(peers.name(), "accepted configuration");
        assert!(peers.has("a", &signs("1.1.1.1:1")) && !peers.has("a", &signs("1.1.1.1:2")));
        put(2);
        peers.refresh();
        assert!(!peers.has("a", &signs("1.1.1.1:1\"")) && peers.has("a", &signs("1.1.1.1:2")));
    }

    #[test]
    fn a_control_api_that_has_the_route_is_asked() {
        let (_folder, paths, runtime) = paths();
        let mut router = Router::new();
        router.route(Method::GET, "/v1/peers/{name}", async |request| {
            Response::json(&json!({"name": request.param("name"), "endpoint": "1.1.1.1:1"}))
        });
        let socket = paths.tunnel_socket(TUNNEL_DEVICE);
        let listener = runtime.block_on(async { local::listen(&socket) }).unwrap();
        let _server = runtime.spawn(local::serve(listener, router));
        let mut peers = Peers::of(&paths, "a", &runtime);
        peers.refresh();
        assert_eq!(peers.name(), "GET /v1/peers/NAME");
        assert!(peers.has("a", &signs("1.1.1.1:1")) && !peers.has("a", &signs("1.1.1.1:2")));
    }
}
