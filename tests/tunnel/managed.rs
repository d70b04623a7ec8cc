//! Two managed tunnels on a wire.

use jiff::Timestamp;
use selvedge::local::ClientError;
use selvedge::tunnel::api::{Applied, DeviceConfig, IdentityConfig, PeerConfig, PeerKeyConfig};
use selvedge_keys::{KeyStore, PublicKey};
use selvedge_lab::traffic::Canary;

use crate::support::tunnel::Tunnel;
use crate::support::{Host, RUNTIME, wire};

/// Two managed tunnels, with a key store each.
pub(crate) struct Managed {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) canary: Canary,
}

/// One of them.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) tunnel: Tunnel,
    pub(crate) key: PublicKey,
    number: u8,
    pub(crate) name: String,
}

impl Node {
    pub(crate) fn new(host: Host, number: u8) -> Self {
        let name = format!("wg{number}");
        let tunnel = Tunnel::start(&host, &name, &["--managed"]);
        let keys = KeyStore::open(tunnel.run.join("keys")).unwrap().ensure(Timestamp::now()).unwrap();
        assert_eq!(keys.epoch, 1);
        host.address(&name, &format!("10.9.0.{number}/24"));
        Self { host, tunnel, key: keys.private_key.public_key(), number, name }
    }

    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    pub(crate) fn as_peer(&self) -> PeerConfig {
        PeerConfig {
            name: self.name.clone(),
            keys: vec![PeerKeyConfig { public_key: self.key, epoch: 1, retired: false }],
            endpoints: vec![format!("192.0.2.{}:51830", self.number).parse().unwrap()],
            allowed_ips: vec![format!("10.9.0.{}/32", self.number).parse().unwrap()],
            persistent_keepalive: None,
        }
    }

    pub(crate) fn config(&self, peers: Vec<PeerConfig>) -> DeviceConfig {
        DeviceConfig {
            key_store: self.tunnel.run.join("keys"),
            identities: vec![IdentityConfig { epoch: 1, withdrawn: false }],
            listen_port: 51830,
            mtu: 1400,
            firewall_mark: None,
            peers,
        }
    }

    pub(crate) fn put<B: serde::Serialize>(&self, path: &str, body: &B) -> Result<Applied, ClientError> {
        RUNTIME.block_on(self.tunnel.client().put(path, body))
    }

    pub(crate) fn get_config(&self) -> DeviceConfig {
        RUNTIME.block_on(self.tunnel.client().get("/v1/config")).unwrap()
    }
}

impl Managed {
    pub(crate) fn new() -> Self {
        let (host_a, host_b) = wire();
        Self { a: Node::new(host_a, 1), b: Node::new(host_b, 2), canary: Canary::random().unwrap() }
    }

    pub(crate) fn configured() -> Self {
        let net = Self::new();
        for (node, other) in [(&net.a, &net.b), (&net.b, &net.a)] {
            let applied = node.put("/v1/config", &node.config(vec![other.as_peer()])).unwrap();
            assert_eq!(applied, Applied { added: vec![other.name.clone()], ..Applied::default() });
        }
        net
    }
}
