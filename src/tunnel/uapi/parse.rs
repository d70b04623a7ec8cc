//! Requests: text in, values out.

use std::net::SocketAddr;

use ipnet::IpNet;
use selvedge_keys::{KEY_LEN, PresharedKey, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::decimal::number;
use super::zone::{self, Zones};

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `get=1`
    Get,
    /// `set=1` and what follows.
    Set(Set),
}

/// What a `set` asks for; what it does not name stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// The device's key; `Some(None)` takes it away.
    pub private_key: Option<Option<PrivateKey>>,
    /// The UDP port.
    pub listen_port: Option<u16>,
    /// The mark of sent datagrams; 0 for none.
    pub fwmark: Option<u32>,
    /// All peers go before the changes below.
    pub replace_peers: bool,
    /// Changes to peers, in order.
    pub peers: Vec<PeerChange>,
}

/// What a `set` asks for one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerChange {
    /// Which peer.
    pub public_key: PublicKey,
    /// The peer goes.
    pub remove: bool,
    /// The rest counts only for a peer that there is.
    pub update_only: bool,
    /// The preshared key; all zeros for none.
    pub preshared_key: Option<PresharedKey>,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 for none.
    pub persistent_keepalive: Option<u16>,
    /// All allowed IPs go before the changes below.
    pub replace_allowed_ips: bool,
    /// Changes to the allowed IPs, in order.
    pub allowed_ips: Vec<AllowedIpChange>,
}

/// One `allowed_ip` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedIpChange {
    /// The prefix becomes this peer's; it goes from any other.
    Add(IpNet),
    /// The prefix goes from this peer, if it is its.
    Remove(IpNet),
}

impl PeerChange {
    fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// Why a request cannot be understood. Never repeats a value, which may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The first line is neither `get=1` nor `set=1`.
    #[error("the request starts with neither get=1 nor set=1")]
    Operation,
    /// A line has no `=` or is no UTF-8.
    #[error("line {line} is not key=value")]
    Line {
        /// Which line, from 1.
        line: usize,
    },
    /// There is no such key, or not here.
    #[error("line {line}: no such key, or not at this place")]
    Key {
        /// Which line, from 1.
        line: usize,
    },
    /// The value cannot be used.
    #[error("line {line}: the value of {key} is not valid")]
    Value {
        /// Which line, from 1.
        line: usize,
        /// Its key.
        key: &'static str,
    },
}

/// Reads one request, given without the empty line that ends it. `zones` has the devices that endpoints may name.
///
/// # Errors
/// When it is none; with the line of the fault.
pub fn parse(request: &[u8], zones: &impl Zones) -> Result<Request, ParseError> {
    let mut lines = request.split(|byte| *byte == b'\n').enumerate();
    let operation = lines.next().map(|(_, line)| line);
    let rest = lines.filter(|(_, line)| !line.is_empty()).map(|(index, line)| (index + 1, line));
    match operation {
        Some(b"get=1") => parse_get(rest),
        Some(b"set=1") => parse_set(rest, zones),
        _ => Err(ParseError::Operation),
    }
}

fn parse_get<'a>(mut rest: impl Iterator<Item = (usize, &'a [u8])>) -> Result<Request, ParseError> {
    match rest.next() {
        None => Ok(Request::Get),
        Some((line, _)) => Err(ParseError::Key { line }),
    }
}

fn parse_set<'a>(
    rest: impl Iterator<Item = (usize, &'a [u8])>,
    zones: &impl Zones,
) -> Result<Request, ParseError> {
    let mut set = Set::default();
    for (line, text) in rest {
        let text = std::str::from_utf8(text).map_err(|_| ParseError::Line { line })?;
        let (key, value) = text.split_once('=').ok_or(ParseError::Line { line })?;
        let place = Place { line, value };
        if key == "public_key" {
            set.peers.push(PeerChange::new(place.read("public_key", public_key)?));
        } else if let Some(peer) = set.peers.last_mut() {
            peer_line(peer, key, place, zones)?;
        } else {
            device_line(&mut set, key, place)?;
        }
    }
    Ok(Request::Set(set))
}

fn device_line(set: &mut Set, key: &str, place: Place<'_>) -> Result<(), ParseError> {
    match key {
        "private_key" => set.private_key = Some(place.read("private_key", private_key)?),
        "listen_port" => set.listen_port = Some(place.read("listen_port", number)?),
        "fwmark" => set.fwmark = Some(place.read("fwmark", number)?),
        "replace_peers" => set.replace_peers = place.read("replace_peers", yes)?,
        _ => return Err(ParseError::Key { line: place.line }),
    }
    Ok(())
}

fn peer_line(
    peer: &mut PeerChange,
    key: &str,
    place: Place<'_>,
    zones: &impl Zones,
) -> Result<(), ParseError> {
    match key {
        "remove" => peer.remove = place.read("remove", yes)?,
        "update_only" => peer.update_only = place.read("update_only", yes)?,
        "preshared_key" => peer.preshared_key = Some(place.read("preshared_key", preshared_key)?),
        "endpoint" => peer.endpoint = Some(place.read("endpoint", |text| endpoint(text, zones))?),
        "persistent_keepalive_interval" => {
            peer.persistent_keepalive = Some(place.read("persistent_keepalive_interval", number)?);
        }
        "replace_allowed_ips" => peer.replace_allowed_ips = place.read("replace_allowed_ips", yes)?,
        "allowed_ip" => peer.allowed_ips.push(place.read("allowed_ip", allowed_ip)?),
        "protocol_version" => place.read("protocol_version", |value| (value == "1").then_some(()))?,
        _ => return Err(ParseError::Key { line: place.line }),
    }
    Ok(())
}

/// A value and where it stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    line: usize,
    value: &'a str,
}

impl Place<'_> {
    fn read<T>(self, key: &'static str, reader: impl Fn(&str) -> Option<T>) -> Result<T, ParseError> {
        reader(self.value).ok_or(ParseError::Value { line: self.line, key })
    }
}

fn yes(value: &str) -> Option<bool> {
    (value == "true").then_some(true)
}

/// Without a port nothing can be sent, so 0 is refused.
fn endpoint(value: &str, zones: &impl Zones) -> Option<SocketAddr> {
    zone::parse(value, zones).filter(|endpoint| endpoint.port() != 0 && !endpoint.ip().is_unspecified())
}

fn allowed_ip(value: &str) -> Option<AllowedIpChange> {
    match value.strip_prefix('-') {
        Some(prefix) => network(prefix).map(AllowedIpChange::Remove),
        None => network(value).map(AllowedIpChange::Add),
    }
}

/// The network, its host bits cleared.
fn network(value: &str) -> Option<IpNet> {
    let (address, length) = value.split_once('/')?;
    IpNet::new(address.parse().ok()?, number(length)?).ok().map(|network| network.trunc())
}

fn public_key(value: &str) -> Option<PublicKey> {
    hex(value).map(|bytes| PublicKey::from_bytes(*bytes))
}

/// All zeros mean no key.
fn private_key(value: &str) -> Option<Option<PrivateKey>> {
    hex(value).map(|bytes| (*bytes != [0; KEY_LEN]).then(|| PrivateKey::from_bytes(*bytes)))
}

fn preshared_key(value: &str) -> Option<PresharedKey> {
    hex(value).map(|bytes| PresharedKey::from_bytes(*bytes))
}

fn hex(value: &str) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    if value.len() != 2 * KEY_LEN {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(value.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::zone::Numbers;
    use super::*;

    const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

    fn set(text: &str) -> Result<Set, ParseError> {
        match parse(text.as_bytes(), &Numbers)? {
            Request::Set(set) => Ok(set),
            Request::Get => panic!("a get"),
        }
    }

    #[test]
    fn every_key_is_understood() {
        let text = format!(
            "set=1\nprivate_key={KEY}\nlisten_port=12912\nfwmark=4294967295\nreplace_peers=true\n\
             public_key={KEY}\nupdate_only=true\nremove=true\npreshared_key={KEY}\nprotocol_version=1\n\
             endpoint=[abcd:23::33%2]:51820\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=192.168.4.4/24\nallowed_ip=-fd00::1/128\npublic_key={KEY}\n"
        );
        let set = set(&text).unwrap();
        assert_eq!(
            set.private_key.unwrap().unwrap().as_bytes()[1..31],
            public_key(KEY).unwrap().as_bytes()[1..31]
        );
        assert_eq!((set.listen_port, set.fwmark, set.replace_peers), (Some(12912), Some(u32::MAX), true));
        let peer = &set.peers[0];
        assert_eq!(peer.public_key, public_key(KEY).unwrap());
        assert!(peer.update_only && peer.remove && peer.replace_allowed_ips && peer.preshared_key.is_some());
        assert_eq!(peer.endpoint.unwrap().to_string(), "[abcd:23::33%2]:51820");
        assert_eq!(peer.persistent_keepalive, Some(25));
        assert_eq!(
            peer.allowed_ips,
            [
                AllowedIpChange::Add("192.168.4.0/24".parse().unwrap()),
                AllowedIpChange::Remove("fd00::1/128".parse().unwrap())
            ]
        );
        assert_eq!(set.peers[1], PeerChange::new(peer.public_key));
    }

    #[test]
    fn zeros_take_the_private_key_away() {
        let text = format!("set=1\nprivate_key={}", "0".repeat(64));
        assert_eq!(set(&text).unwrap().private_key, Some(None));
    }

    #[test]
    fn faults_are_named_by_line_and_never_by_value() {
        let cases = [
            ("", "neither"),
            ("get=2", "neither"),
            ("get=1\nlisten_port=1", "line 2: no such key"),
            ("set=1\nlisten_port", "line 2 is not key=value"),
            ("set=1\nlisten_port=65536", "line 2: the value of listen_port"),
            ("set=1\nlisten_port=+1", "line 2: the value of listen_port"),
            ("set=1\nlisten_port=", "line 2: the value of listen_port"),
            ("set=1\nprivate_key=secret", "line 2: the value of private_key"),
            ("set=1\nreplace_peers=1", "line 2: the value of replace_peers"),
            ("set=1\nendpoint=1.2.3.4:5", "line 2: no such key"),
            ("set=1\npublic_key=ff", "line 2: the value of public_key"),
        ];
        for (text, expected) in cases {
            let error = set(text).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{text:?}: {error}");
        }
        for line in [
            "listen_port=1",
            "allowed_ip=10.0.0.0/33",
            "allowed_ip=10.0.0.0",
            "allowed_ip=--10.0.0.0/8",
            "endpoint=1.2.3.4",
            "endpoint=1.2.3.4:0",
            "endpoint=0.0.0.0:1",
            "endpoint=host:1",
            "endpoint=[fe80::1%nodevice]:1",
            "protocol_version=2",
            "remove=false",
            "persistent_keepalive_interval=70000",
        ] {
            let text = format!("set=1\npublic_key={KEY}\n{line}");
            assert!(set(&text).unwrap_err().to_string().starts_with("line 3"), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, &Numbers);
            let _ = parse(&[b"set=1\n".as_slice(), &bytes].concat(), &Numbers);
        }
    }
}
