//! One pod interface, as the container runtime names it, and the names that follow from it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::kernel::mac::Mac;

/// Name of the bridge that the pods' ports are in.
pub const BRIDGE: &str = "selvedge-br";

/// Longest name of a network device.
const NAME_LIMIT: usize = 15;

/// A container and the name of the interface in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container: String,
    /// `CNI_IFNAME`.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` {reason}")]
pub struct InvalidName {
    value: String,
    reason: &'static str,
}

impl Attachment {
    /// Checks both names as the CNI specification asks.
    pub fn new(container: &str, interface: &str) -> Result<Self, InvalidName> {
        identifier(container)?;
        device(interface)?;
        Ok(Self { container: container.to_owned(), interface: interface.to_owned() })
    }

    /// Name of the node's end of the veth: `slv` and the first 11 hexadecimal digits of the SHA-256 of both names.
    #[must_use]
    pub fn port(&self) -> Port {
        let hash = Sha256::digest(format!("{}/{}", self.container, self.interface));
        let hex: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Port { name: format!("{PREFIX}{}", &hex[..DIGITS]), pod_mac: mac(&hash[8..]), mac: mac(&hash[16..]) }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.interface, self.container)
    }
}

/// The pod that an attachment belongs to, from `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// `K8S_POD_NAMESPACE`
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// `K8S_POD_NAME`
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `K8S_POD_UID`
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// How the two ends of an attachment's veth are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name of the node's end.
    pub name: String,
    /// Ethernet address of the node's end.
    pub mac: Mac,
    /// Ethernet address of the pod's end.
    pub pod_mac: Mac,
}

/// With this the names of the node's ends begin.
pub const PREFIX: &str = "slv";
const DIGITS: usize = 11;

/// Whether a device name is one that [`Attachment::port`] gives.
#[must_use]
pub fn is_port(name: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == DIGITS && rest.bytes().all(hex))
}

fn mac(bytes: &[u8]) -> Mac {
    let mut first = [0; 6];
    first.copy_from_slice(&bytes[..6]);
    Mac::local(first)
}

/// A container ID or network name: alphanumeric, then also `_`, `.`, `-` (CNI specification 1.1.0, "Parameters").
pub fn identifier(value: &str) -> Result<(), InvalidName> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let reason = match value.as_bytes() {
        [] => "is empty",
        [first, ..] if !first.is_ascii_alphanumeric() => "does not begin with a letter or digit",
        bytes if !bytes.iter().copied().all(plain) => {
            "has characters other than letters, digits, `_`, `.` and `-`"
        }
        _ => return Ok(()),
    };
    Err(InvalidName { value: shown(value), reason })
}

/// The name of a network device.
pub fn device(value: &str) -> Result<(), InvalidName> {
    let reason = match value {
        "" => "is empty",
        "." | ".." => "is no name for a network device",
        _ if value.len() > NAME_LIMIT => "is longer than the 15 bytes that a network device's name may have",
        _ if value.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace()) => {
            "has a slash, colon, zero or space, which the name of a network device can't have"
        }
        _ => return Ok(()),
    };
    Err(InvalidName { value: shown(value), reason })
}

/// So much of it as fits into a message.
fn shown(value: &str) -> String {
    value.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_container_and_interface() {
        let one = Attachment::new("abc", "eth0").unwrap();
        let port = one.port();
        assert!(is_port(&port.name) && port.name.len() == 14, "{port:?}");
        assert_eq!(port, one.clone().port());
        assert_ne!(port.name, Attachment::new("abc", "eth1").unwrap().port().name);
        assert_ne!(port.mac, port.pod_mac);
    }

    #[test]
    fn other_devices_are_no_ports() {
        for name in
            ["selvedge0", "selvedge-br", "slv", "slv0123456789", "slv0123456789g", "slvABCDEF01234", "lo"]
        {
            assert!(!is_port(name), "{name}");
        }
    }

    #[test]
    fn names_are_checked() {
        for container in ["", "-a", "a/b", "a b", "ä", "a\n"] {
            assert!(Attachment::new(container, "eth0").is_err(), "{container}");
        }
        for interface in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-xx", "a\0"] {
            assert!(Attachment::new("a", interface).is_err(), "{interface}");
        }
        let message = Attachment::new(&"\x1b".repeat(999), "eth0").unwrap_err().to_string();
        assert!(message.len() < 600 && message.is_ascii(), "{message}");
    }
}
