//! IP addresses of devices.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::netlink::{Change, Error, Netlink};

/// An address on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Index of the device.
    pub device: u32,
    /// The address with its prefix length. A longer prefix than the host's makes the kernel add a route.
    pub net: IpNet,
}

impl Address {
    /// An address and its device.
    #[must_use]
    pub fn new(device: u32, net: impl Into<IpNet>) -> Self {
        Self { device, net: net.into() }
    }

    /// Adds it, IPv6 without duplicate address detection; there already is fine.
    pub fn add(self) -> Change {
        let mut message = self.message();
        if self.net.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let what = format!("add address {} to device {}", self.net, self.device);
        Change::new(what, Message::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes it away; gone already is fine.
    pub fn delete(self) -> Change {
        let what = format!("delete address {} from device {}", self.net, self.device);
        Change::new(what, Message::DelAddress(self.message()), 0)
            .tolerating(&[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    fn message(self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(self.net.addr());
        message.header.prefix_len = self.net.prefix_len();
        message.header.index = self.device;
        let address = self.net.addr();
        message.header.scope = match address {
            IpAddr::V4(v4) if v4.is_link_local() => AddressScope::Link,
            _ if address.is_loopback() => AddressScope::Host,
            _ => AddressScope::Universe,
        };
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        message
    }
}

/// What of `found` a device of ours has beside `wanted`. Link-local IPv6 addresses are the kernel's own.
pub fn stale<'a>(wanted: &'a [Address], found: &'a [Address]) -> impl Iterator<Item = &'a Address> {
    let is_link_local =
        |address: &Address| matches!(address.net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    found.iter().filter(move |address| !wanted.contains(address) && !is_link_local(address))
}

/// The changes that leave a device of ours with the addresses `wanted` and no others. What is stale goes first: a device
/// has one IPv6 address once, whatever its prefix length.
#[must_use]
pub fn diff(wanted: &[Address], found: &[Address]) -> Vec<Change> {
    let missing = wanted.iter().filter(|address| !found.contains(address));
    stale(wanted, found).map(|address| address.delete()).chain(missing.map(|address| address.add())).collect()
}

impl Netlink {
    /// The addresses of `device`, or of all devices.
    pub async fn addresses(&self, device: Option<u32>) -> Result<Vec<Address>, Error> {
        let mut request = AddressMessage::default();
        request.header.index = device.unwrap_or(0);
        let list = self.dump("list addresses", &Message::GetAddress(request)).await?;
        let found = list.into_iter().filter_map(from_message);
        Ok(found.filter(|address| device.is_none_or(|index| address.device == index)).collect())
    }
}

fn from_message(message: Message) -> Option<Address> {
    let Message::NewAddress(message) = message else { return None };
    // On a point-to-point device `Address` is the other end's; `Local`, where given, is always our own.
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let other = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let mut attributes = message.attributes.iter();
    let address = attributes.clone().find_map(own).or_else(|| attributes.find_map(other))?;
    let net = IpNet::new(address, message.header.prefix_len).ok()?;
    Some(Address { device: message.header.index, net })
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
