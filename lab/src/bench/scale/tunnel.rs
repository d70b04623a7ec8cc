//! Whether the tunnel has a peer's new state: looked at often, so by what costs it little.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use memchr::memmem;
use selvedge::local::{Client, encode};
use selvedge::paths::Paths;
use serde_json::Value;

use crate::node::TUNNEL_DEVICE;

/// Pause between looks, and so how exactly arrivals are timed.
pub(super) const LOOK: Duration = Duration::from_millis(4);
const ANSWER: Duration = Duration::from_secs(2);

/// Where the tunnel's peers are looked at.
pub(super) enum Peers<'a> {
    /// One by one, by its control API.
    Api { client: Client, runtime: &'a tokio::runtime::Runtime },
    /// In the file of its accepted configuration, for a tunnel whose control API has no such route.
    File { path: PathBuf, read: Option<(u64, i64, i64)>, text: Vec<u8> },
}

impl<'a> Peers<'a> {
    /// `known` is a peer that the tunnel has.
    pub(super) fn of(paths: &Paths, known: &str, runtime: &'a tokio::runtime::Runtime) -> Self {
        let client = Client::new(&paths.tunnel_socket(TUNNEL_DEVICE)).with_timeout(ANSWER);
        let path = paths.tunnel_config(TUNNEL_DEVICE);
        if runtime.block_on(client.get::<Value>(&route(known))).is_ok() {
            Self::Api { client, runtime }
        } else {
            Self::File { path, read: None, text: Vec::new() }
        }
    }

    /// How it is looked at, for the report.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Api { .. } => "GET /v1/peers/NAME",
            Self::File { .. } => "accepted configuration",
        }
    }

    /// Brings what [`has`](Self::has) answers from up to date; needed for the file alone.
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

    /// Whether the peer `name` is there with `sign` somewhere in its state. No other peer may have that sign.
    pub(super) fn has(&self, name: &str, sign: &str) -> bool {
        match self {
            Self::Api { client, runtime } => {
                let peer = runtime.block_on(client.get::<Value>(&route(name)));
                peer.is_ok_and(|peer| peer.to_string().contains(sign))
            }
            Self::File { text, .. } => memmem::find(text, sign.as_bytes()).is_some(),
        }
    }
}

fn route(peer: &str) -> String {
    format!("/v1/peers/{}", encode(peer))
}
