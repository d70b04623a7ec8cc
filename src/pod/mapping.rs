//! What a host port is: addresses and a port of the node that lead to a port of a pod. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use crate::kernel::protocol::Protocol;

use crate::kernel::nft::Ip;
use crate::pod::pool::Addresses;

/// A host port as the runtime asks for it (CNI conventions, `portMappings`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The node's address; nothing: all of both families. The unspecified address: all of its family.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The pod's port.
    pub container_port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host_ip, host_port, protocol, .. } = self;
        match host_ip {
            None => write!(f, "{protocol} port {host_port} of the node"),
            Some(address) => write!(f, "{protocol} {}", SocketAddr::new(*address, *host_port)),
        }
    }
}

/// What packets are looked up by: one family's part of a host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The family.
    pub ip: Ip,
    /// The node's address; nothing: any that is its own.
    pub address: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The node's port.
    pub port: u16,
}

impl Key {
    /// Whether a packet could have both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let same = |key: &Self| (key.ip, key.protocol, key.port);
        let everywhere = self.address.is_none() || other.address.is_none();
        same(self) == same(other) && (everywhere || self.address == other.address)
    }
}

impl HostPort {
    /// One key for each family that it is for.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        let Self { host_ip, host_port: port, protocol, .. } = *self;
        let families = Ip::BOTH.into_iter().filter(move |ip| host_ip.is_none_or(|own| Ip::of(own) == *ip));
        let address = host_ip.filter(|address| !address.is_unspecified());
        families.map(move |ip| Key { ip, address, protocol, port })
    }

    /// Whether a packet could be for both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.keys().any(|key| other.keys().any(|other| key.overlaps(&other)))
    }

    /// Where it leads in a pod with these addresses. A family that the pod has no address of leads nowhere.
    #[must_use]
    pub fn targets(&self, pod: &Addresses) -> Vec<(Key, SocketAddr)> {
        let target = |key: Key| {
            let address = pod.iter().find(|address| Ip::of(*address) == key.ip)?;
            Some((key, SocketAddr::new(address, self.container_port)))
        };
        self.keys().filter_map(target).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::pod) fn port(protocol: Protocol, host: &str, port: u16) -> HostPort {
        let host_ip = (!host.is_empty()).then(|| host.parse().unwrap());
        HostPort { host_ip, host_port: port, protocol, container_port: 80 }
    }

    /// Few values, so that they meet.
    pub(in crate::pod) fn some_port() -> impl Strategy<Value = HostPort> {
        let host = prop_oneof![
            Just(""),
            Just("0.0.0.0"),
            Just("::"),
            Just("192.0.2.1"),
            Just("192.0.2.2"),
            Just("2001:db8::1")
        ];
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        (host, 1u16..4, protocol, 1u16..3).prop_map(|(host, number, protocol, container_port)| HostPort {
            container_port,
            ..port(protocol, host, number)
        })
    }

    #[test]
    fn who_is_in_whose_way() {
        let tcp = |host| port(Protocol::Tcp, host, 80);
        for (one, other, overlap) in [
            ("", "", true),
            ("", "192.0.2.1", true),
            ("0.0.0.0", "192.0.2.1", true),
            ("0.0.0.0", "::", false),
            ("::", "192.0.2.1", false),
            ("::", "2001:db8::1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!(tcp(one).overlaps(&tcp(other)), overlap, "{one} and {other}");
            assert!(!tcp(one).overlaps(&port(Protocol::Udp, other, 80)));
            assert!(!tcp(one).overlaps(&port(Protocol::Tcp, other, 81)));
        }
    }

    #[test]
    fn words_and_files() {
        assert_eq!(port(Protocol::Udp, "", 53).to_string(), "UDP port 53 of the node");
        assert_eq!(port(Protocol::Tcp, "2001:db8::1", 80).to_string(), "TCP [2001:db8::1]:80");
        let text = serde_json::to_string(&port(Protocol::Sctp, "192.0.2.1", 9)).unwrap();
        assert_eq!(text, r#"{"hostIP":"192.0.2.1","hostPort":9,"protocol":"sctp","containerPort":80}"#);
        assert_eq!((Protocol::parse("TCP"), Protocol::parse("icmp")), (Some(Protocol::Tcp), None));
    }

    proptest! {
        #[test]
        fn overlapping_goes_both_ways(one in some_port(), other in some_port()) {
            prop_assert_eq!(one.overlaps(&other), other.overlaps(&one));
            prop_assert!(one.overlaps(&one));
        }
    }
}
