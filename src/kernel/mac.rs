//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// Not six hexadecimal octets with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no Ethernet address like 02:00:5e:10:00:01")]
pub struct InvalidMac(String);

impl Mac {
    /// A locally administered unicast address made of the first six of `bytes`, e.g. of a hash.
    #[must_use]
    pub fn local(bytes: [u8; 6]) -> Self {
        let [first, rest @ ..] = bytes;
        let [a, b, c, d, e] = rest;
        Self([(first & 0xfc) | 0x02, a, b, c, d, e])
    }

    /// The IPv6 link-local address that the kernel forms from it (modified EUI-64, RFC 4291 appendix A).
    #[must_use]
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f].into()
    }

    /// From what netlink gives; nothing if it is not six bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.to_owned());
        let octet = |part: &str| match part.len() {
            2 => u8::from_str_radix(part, 16).map_err(|_| invalid()),
            _ => Err(invalid()),
        };
        let octets = text.split(':').map(octet).collect::<Result<Vec<u8>, _>>()?;
        Self::from_bytes(&octets).ok_or_else(invalid)
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mac = Mac([2, 0, 0x5e, 0x10, 0, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for wrong in ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "zz:00:5e:10:00:ff"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn link_local_is_modified_eui64() {
        assert_eq!(Mac([0, 0, 0x5e, 0x10, 0, 1]).link_local().to_string(), "fe80::200:5eff:fe10:1");
    }

    #[test]
    fn local_addresses_are_unicast_and_local() {
        assert_eq!(Mac::local([0xff; 6]).0[0], 0xfe);
        assert_eq!(Mac::local([0; 6]).0[0], 0x02);
    }
}
