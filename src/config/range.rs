//! Which addresses and prefixes can be a node's, a pod's or a Service's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The cluster's own ranges: what lies in them never travels outside the fabric.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterRanges {
    /// Pod addresses of all nodes.
    pub pods: Vec<IpNet>,
    /// Service addresses.
    pub services: Vec<IpNet>,
}

impl ClusterRanges {
    /// Says whether `address` is a pod's or a Service's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.pods.iter().chain(&self.services).any(|net| net.contains(&address))
    }

    /// Says whether the whole of `net` lies in one of the pod ranges.
    #[must_use]
    pub fn hold_pods(&self, net: &IpNet) -> bool {
        self.pods.iter().any(|range| range.contains(net))
    }
}

/// Address ranges with a meaning of their own (RFC 6890), in which no node, pod or Service can be.
const SPECIAL: [(&str, IpNet); 10] = [
    ("unspecified", v4([0, 0, 0, 0], 8)),
    ("loopback", v4([127, 0, 0, 0], 8)),
    ("link-local", v4([169, 254, 0, 0], 16)),
    ("multicast", v4([224, 0, 0, 0], 4)),
    ("broadcast", v4([255, 255, 255, 255], 32)),
    ("unspecified", v6([0; 8], 128)),
    ("loopback", v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    ("IPv4-mapped", v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96)),
    ("link-local", v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    ("multicast", v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(s: [u16; 8], length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]), length))
}

/// The name of the special range that holds `address`, if one does.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    SPECIAL.iter().find(|(_, net)| net.contains(&address)).map(|(name, _)| *name)
}

/// The name of a special range that shares addresses with `net`, if one does. A prefix of length 0 shares some
/// with all of them.
#[must_use]
pub fn special_in(net: &IpNet) -> Option<&'static str> {
    SPECIAL.iter().find(|(_, range)| overlap(range, net)).map(|(name, _)| *name)
}

/// Says whether two prefixes share an address: one then holds the other.
#[must_use]
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_known() {
        for (text, name) in [
            ("0.0.0.0", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("239.1.2.3", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::ffff:10.0.0.1", "IPv4-mapped"),
            ("fe80::1", "link-local"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(special(text.parse().unwrap()), Some(name), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "240.0.0.1", "2001:db8::1", "fd00::1"] {
            assert_eq!(special(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn prefixes_overlap_when_one_holds_the_other() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert!(overlap(&net("10.0.0.0/8"), &net("10.1.0.0/16")));
        assert!(overlap(&net("10.1.0.0/16"), &net("10.0.0.0/8")));
        assert!(!overlap(&net("10.0.0.0/16"), &net("10.1.0.0/16")));
        assert!(!overlap(&net("0.0.0.0/0"), &net("::/0")));
        assert_eq!(special_in(&net("128.0.0.0/1")), Some("link-local"));
        assert_eq!(special_in(&net("10.0.0.0/8")), None);
    }
}
