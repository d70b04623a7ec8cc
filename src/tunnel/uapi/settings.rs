//! What `set` requests have made of a device: pure, so that a request is tried out before anything is touched.

use std::fmt::Write as _;
use std::net::SocketAddr;

use ipnet::IpNet;
use selvedge_keys::{PresharedKey, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::parse::{AllowedIpChange, PeerChange, Set};
use crate::tunnel::device::config;

/// A device as it is configured over UAPI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Its key; without one it is silent.
    pub private_key: Option<PrivateKey>,
    /// Its UDP port; 0 for any.
    pub listen_port: u16,
    /// The mark of sent datagrams; 0 for none.
    pub fwmark: u32,
    /// Its peers, in the order they came.
    pub peers: Vec<PeerSettings>,
}

/// A peer as it is configured over UAPI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSettings {
    /// Its key, which is its name too.
    pub public_key: PublicKey,
    /// Preshared key.
    pub preshared_key: Option<PresharedKey>,
    /// Where it was said to be.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 for none.
    pub persistent_keepalive: u16,
    /// Its allowed IPs; no two peers have the same.
    pub allowed_ips: Vec<IpNet>,
}

impl Settings {
    /// The settings with `set` carried out.
    #[must_use]
    pub fn with(&self, set: &Set) -> Self {
        let mut next = self.clone();
        if let Some(private_key) = &set.private_key {
            next.private_key.clone_from(private_key);
        }
        next.listen_port = set.listen_port.unwrap_or(next.listen_port);
        next.fwmark = set.fwmark.unwrap_or(next.fwmark);
        if set.replace_peers {
            next.peers.clear();
        }
        for change in &set.peers {
            next.change_peer(change);
        }
        next.drop_self();
        next
    }

    fn change_peer(&mut self, change: &PeerChange) {
        if change.remove {
            self.peers.retain(|peer| peer.public_key != change.public_key);
            return;
        }
        let known = self.peers.iter().position(|peer| peer.public_key == change.public_key);
        let index = match known {
            Some(index) => index,
            None if change.update_only => return,
            None => {
                self.peers.push(PeerSettings::new(change.public_key));
                self.peers.len() - 1
            }
        };
        self.peers[index].change(change);
        for allowed_ip in &change.allowed_ips {
            self.change_allowed_ip(index, *allowed_ip);
        }
    }

    fn change_allowed_ip(&mut self, index: usize, change: AllowedIpChange) {
        match change {
            AllowedIpChange::Add(prefix) if self.peers[index].allowed_ips.contains(&prefix) => {}
            AllowedIpChange::Add(prefix) => {
                self.peers.iter_mut().for_each(|peer| peer.allowed_ips.retain(|own| *own != prefix));
                self.peers[index].allowed_ips.push(prefix);
            }
            AllowedIpChange::Remove(prefix) => self.peers[index].allowed_ips.retain(|own| *own != prefix),
        }
    }

    /// A device is not its own peer, as in the kernel's implementation.
    fn drop_self(&mut self) {
        if let Some(own) = self.private_key.as_ref().map(PrivateKey::public_key) {
            self.peers.retain(|peer| peer.public_key != own);
        }
    }

    /// The settings as the device takes them: one identity, one key a peer, all of epoch 0.
    #[must_use]
    pub fn resolve(&self) -> config::Config {
        let identity =
            |key: &PrivateKey| config::Identity { epoch: 0, private_key: key.clone(), is_withdrawn: false };
        config::Config {
            identities: self.private_key.iter().map(identity).collect(),
            peers: self.peers.iter().map(PeerSettings::resolve).collect(),
            ..config::Config::default()
        }
    }

    /// The settings as a request that makes them out of nothing. Holds the secrets.
    #[must_use]
    pub fn to_request(&self) -> Zeroizing<String> {
        // Room for all of it, because a string that grows leaves copies behind.
        let prefixes: usize = self.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
        let mut text = Zeroizing::new(String::with_capacity(256 + 512 * self.peers.len() + 64 * prefixes));
        text.push_str("set=1\n");
        if let Some(key) = &self.private_key {
            line(&mut text, "private_key", &hex(key.as_bytes()));
        }
        line(&mut text, "listen_port", &self.listen_port.to_string());
        line(&mut text, "fwmark", &self.fwmark.to_string());
        line(&mut text, "replace_peers", "true");
        for peer in &self.peers {
            peer.to_request(&mut text);
        }
        text
    }
}

impl PeerSettings {
    fn new(public_key: PublicKey) -> Self {
        let allowed_ips = Vec::new();
        Self { public_key, preshared_key: None, endpoint: None, persistent_keepalive: 0, allowed_ips }
    }

    fn change(&mut self, change: &PeerChange) {
        if let Some(key) = &change.preshared_key {
            self.preshared_key = (!key.is_zero()).then(|| key.clone());
        }
        self.endpoint = change.endpoint.or(self.endpoint);
        self.persistent_keepalive = change.persistent_keepalive.unwrap_or(self.persistent_keepalive);
        if change.replace_allowed_ips {
            self.allowed_ips.clear();
        }
    }

    fn resolve(&self) -> config::Peer {
        let key = config::PeerKey {
            public_key: self.public_key,
            epoch: 0,
            preshared_key: self.preshared_key.clone(),
            is_retired: false,
        };
        config::Peer {
            name: self.public_key.to_string(),
            keys: vec![key],
            endpoints: self.endpoint.into_iter().collect(),
            allowed_ips: self.allowed_ips.clone(),
            persistent_keepalive: (self.persistent_keepalive != 0).then_some(self.persistent_keepalive),
        }
    }

    fn to_request(&self, text: &mut String) {
        line(text, "public_key", &hex(self.public_key.as_bytes()));
        if let Some(key) = &self.preshared_key {
            line(text, "preshared_key", &hex(key.as_bytes()));
        }
        if let Some(endpoint) = self.endpoint {
            line(text, "endpoint", &endpoint.to_string());
        }
        line(text, "persistent_keepalive_interval", &self.persistent_keepalive.to_string());
        for prefix in &self.allowed_ips {
            line(text, "allowed_ip", &prefix.to_string());
        }
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key}={value}");
}

pub(super) fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::parse::{Request, parse};
    use super::super::zone::Numbers;
    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    fn apply(settings: &Settings, text: &str) -> Settings {
        match parse(text.as_bytes(), &Numbers).unwrap() {
            Request::Set(set) => settings.with(&set),
            Request::Get => panic!("a get"),
        }
    }

    fn peer_line(number: u8) -> String {
        format!("public_key={}\n", *hex(&[number; 32]))
    }

    #[test]
    fn an_allowed_ip_moves_to_the_peer_that_names_it_last() {
        let settings = apply(
            &Settings::default(),
            &format!(
                "set=1\n{}allowed_ip=10.0.0.0/8\nallowed_ip=10.0.0.0/8\n{}allowed_ip=10.0.0.0/8\n",
                peer_line(1),
                peer_line(2)
            ),
        );
        assert!(settings.peers[0].allowed_ips.is_empty());
        assert_eq!(settings.peers[1].allowed_ips, ["10.0.0.0/8".parse().unwrap()]);
        let none = apply(&settings, &format!("set=1\n{}allowed_ip=-10.0.0.0/8", peer_line(2)));
        assert!(none.peers[1].allowed_ips.is_empty());
        let other = apply(&settings, &format!("set=1\n{}allowed_ip=-10.0.0.0/8", peer_line(1)));
        assert_eq!(other, settings, "a prefix of another peer is not taken away");
    }

    #[test]
    fn update_only_makes_no_peer_and_remove_takes_one() {
        let one = apply(&Settings::default(), &format!("set=1\n{}", peer_line(1)));
        let same = apply(&one, &format!("set=1\n{}update_only=true\nendpoint=1.2.3.4:5", peer_line(2)));
        assert_eq!(same, one);
        let updated = apply(&one, &format!("set=1\n{}update_only=true\nendpoint=1.2.3.4:5", peer_line(1)));
        assert_eq!(updated.peers[0].endpoint, Some("1.2.3.4:5".parse().unwrap()));
        assert!(apply(&updated, &format!("set=1\n{}remove=true", peer_line(1))).peers.is_empty());
        let replaced = apply(&updated, &format!("set=1\nreplace_peers=true\n{}", peer_line(2)));
        assert_eq!(replaced.peers, [PeerSettings::new(key(2))]);
    }

    #[test]
    fn a_device_is_not_its_own_peer() {
        let own = PrivateKey::from_bytes([9; 32]);
        let text = format!(
            "set=1\nprivate_key={}\npublic_key={}\n{}",
            *hex(own.as_bytes()),
            *hex(own.public_key().as_bytes()),
            peer_line(1)
        );
        let settings = apply(&Settings::default(), &text);
        assert_eq!(settings.peers, [PeerSettings::new(key(1))]);
    }

    prop_compose! {
        fn peer(number: u8)(
            psk in option::of(1..=255_u8),
            endpoint in option::of((any::<std::net::IpAddr>(), 1..=u16::MAX)),
            persistent_keepalive in any::<u16>(),
            third in vec(any::<u8>(), 0..4),
        ) -> PeerSettings {
            let prefix = |third: u8| format!("10.{number}.{third}.0/24").parse().unwrap();
            let mut third = third;
            third.sort_unstable();
            third.dedup();
            PeerSettings {
                public_key: key(number),
                preshared_key: psk.map(|byte| PresharedKey::from_bytes([byte; 32])),
                endpoint: endpoint.filter(|(ip, _)| !ip.is_unspecified()).map(SocketAddr::from),
                persistent_keepalive,
                allowed_ips: third.into_iter().map(prefix).collect(),
            }
        }
    }

    prop_compose! {
        fn settings()(
            own in option::of(any::<[u8; 32]>()),
            listen_port in any::<u16>(),
            fwmark in any::<u32>(),
            peers in (0..5_u8).prop_flat_map(|count| (0..count).map(peer).collect::<Vec<_>>()),
        ) -> Settings {
            Settings { private_key: own.map(PrivateKey::from_bytes), listen_port, fwmark, peers }
        }
    }

    proptest! {
        #[test]
        fn settings_survive_their_text_form(before in settings(), after in settings()) {
            prop_assert_eq!(apply(&Settings::default(), &after.to_request()), after.clone());
            let mut replaced = apply(&before, &after.to_request());
            // A request without a private key leaves the one there is.
            replaced.private_key.clone_from(&after.private_key);
            prop_assert_eq!(replaced, after);
        }
    }
}
