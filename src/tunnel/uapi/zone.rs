//! The zone of an IPv6 address, which names a device: `fe80::1%eth0` (RFC 4007, section 11).

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::net::if_::{if_indextoname, if_nametoindex};

/// Names and indices of devices. A request is read with one, so that reading it stays pure.
pub trait Zones {
    /// Index of the device of that name.
    fn index(&self, name: &str) -> Option<u32>;

    /// Name of the device of that index.
    fn name(&self, index: u32) -> Option<String>;
}

/// The devices of the calling thread's network namespace.
#[derive(Debug, Clone, Copy)]
pub struct Devices;

impl Zones for Devices {
    fn index(&self, name: &str) -> Option<u32> {
        if_nametoindex(name).ok()
    }

    fn name(&self, index: u32) -> Option<String> {
        if_indextoname(index).ok()?.into_string().ok()
    }
}

/// No device has a name: zones are numbers.
#[derive(Debug, Clone, Copy)]
pub struct Numbers;

impl Zones for Numbers {
    fn index(&self, _: &str) -> Option<u32> {
        None
    }

    fn name(&self, _: u32) -> Option<String> {
        None
    }
}

/// Reads an endpoint. A zone is the name of a device or, where none has that name, its index, as for getaddrinfo(3).
pub(super) fn parse(text: &str, zones: &impl Zones) -> Option<SocketAddr> {
    named(text, zones).or_else(|| text.parse().ok())
}

fn named(text: &str, zones: &impl Zones) -> Option<SocketAddr> {
    let (host, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
    let (address, zone) = host.split_once('%')?;
    let (address, port) = (address.parse::<Ipv6Addr>().ok()?, super::decimal::number(port)?);
    Some(SocketAddrV6::new(address, port, 0, zones.index(zone)?).into())
}

/// Writes an endpoint as getnameinfo(3) does, so that `wg` reads it: the zone of a link-local address is a name.
pub(super) fn render(endpoint: SocketAddr, zones: &impl Zones) -> String {
    match endpoint {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() != 0 => {
            let zone = zones.name(v6.scope_id()).unwrap_or_else(|| v6.scope_id().to_string());
            format!("[{}%{zone}]:{}", v6.ip(), v6.port())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One device, `vb` of index 7, and one whose name looks like an index.
    struct Two;

    impl Zones for Two {
        fn index(&self, name: &str) -> Option<u32> {
            [("vb", 7), ("2", 9)].iter().find(|(known, _)| *known == name).map(|(_, index)| *index)
        }

        fn name(&self, index: u32) -> Option<String> {
            [("vb", 7), ("2", 9)]
                .iter()
                .find(|(_, known)| *known == index)
                .map(|(name, _)| (*name).to_owned())
        }
    }

    #[test]
    fn zones_are_names_or_else_numbers() {
        for (text, scope, rendered) in [
            ("[fe80::1%vb]:51820", 7, "[fe80::1%vb]:51820"),
            ("[fe80::1%7]:51820", 7, "[fe80::1%vb]:51820"),
            ("[fe80::1%8]:51820", 8, "[fe80::1%8]:51820"),
            ("[fe80::1%2]:51820", 9, "[fe80::1%2]:51820"),
            ("[fe80::1]:51820", 0, "[fe80::1]:51820"),
            ("[2001:db8::1%vb]:51820", 7, "[2001:db8::1%7]:51820"),
        ] {
            match parse(text, &Two) {
                Some(SocketAddr::V6(v6)) => assert_eq!(v6.scope_id(), scope, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
            assert_eq!(render(parse(text, &Two).unwrap(), &Two), rendered);
        }
        assert_eq!(parse("192.0.2.1:7", &Two), Some(([192, 0, 2, 1], 7).into()));
    }

    #[test]
    fn what_names_no_device_is_refused() {
        for text in
            ["[fe80::1%va]:51820", "[fe80::1%]:51820", "[fe80::1%vb]", "[192.0.2.1%vb]:1", "fe80::1%vb:1"]
        {
            assert_eq!(parse(text, &Two), None, "{text}");
        }
        assert_eq!(parse("[fe80::1%vb]:51820", &Numbers), None);
    }
}
