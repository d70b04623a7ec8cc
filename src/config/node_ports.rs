//! `nodePortAddresses`: which of a node's addresses have node ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Some of a node's own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NodePortAddresses {
    /// Those of type InternalIP in its Node.
    Primary,
    /// All but loopback.
    All,
    /// Loopback, for TCP.
    Localhost,
    /// Those in a range.
    Within(IpNet),
}

impl NodePortAddresses {
    /// Whether this non-loopback address of the node is selected; `primary` are the InternalIP addresses of its Node.
    #[must_use]
    pub fn has(&self, address: IpAddr, primary: &[IpAddr]) -> bool {
        match self {
            Self::Primary => primary.contains(&address),
            Self::All => true,
            Self::Localhost => false,
            Self::Within(range) => range.contains(&address),
        }
    }
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            "localhost" => Ok(Self::Localhost),
            range => match range.parse::<IpNet>() {
                Ok(range) if range.network().is_loopback() => {
                    Err(format!("`{text}` is of loopback: write \"localhost\""))
                }
                Ok(range) => Ok(Self::Within(range.trunc())),
                Err(_) => Err(format!("`{text}` names no addresses")),
            },
        }
    }
}

impl TryFrom<String> for NodePortAddresses {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NodePortAddresses> for String {
    fn from(addresses: NodePortAddresses) -> Self {
        addresses.to_string()
    }
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::All => f.write_str("all"),
            Self::Localhost => f.write_str("localhost"),
            Self::Within(range) => range.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_ranges() {
        for text in ["primary", "all", "localhost", "192.0.2.0/24", "2001:db8::/64"] {
            let read: NodePortAddresses = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
        for text in ["", "Primary", "192.0.2.1", "127.0.0.0/8", "::1/128"] {
            assert!(text.parse::<NodePortAddresses>().is_err(), "{text}");
        }
        let [own, other] = ["192.0.2.1", "198.51.100.1"].map(|at| at.parse::<IpAddr>().unwrap());
        let has = |text: &str| {
            let addresses: NodePortAddresses = text.parse().unwrap();
            [own, other].map(|address| addresses.has(address, &[own]))
        };
        assert_eq!(
            ["primary", "all", "localhost", "198.51.100.0/24"].map(has),
            [[true, false], [true, true], [false, false], [false, true]]
        );
    }
}
