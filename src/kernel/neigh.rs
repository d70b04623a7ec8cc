//! Neighbours: who has which Ethernet address; and behind which port of a bridge an Ethernet address is. Only
//! permanent entries, which no packet changes.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::address::family;
use super::mac::Mac;
use super::netlink::{Change, Error, Netlink};

/// A permanent neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// Index of the device on which it is.
    pub device: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

impl Neighbour {
    /// Puts it there, in place of what was learnt.
    pub fn replace(self) -> Change {
        let mut message = self.message();
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec()));
        let what = format!("set neighbour {} on device {} to {}", self.address, self.device, self.mac);
        Change::new(what, Message::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes it away; gone already is fine.
    pub fn delete(self) -> Change {
        let what = format!("delete neighbour {} on device {}", self.address, self.device);
        Change::new(what, Message::DelNeighbour(self.message()), 0).tolerating(&[libc::ENOENT, libc::ENODEV])
    }

    fn message(self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family(self.address);
        message.header.ifindex = self.device;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(NeighbourAttribute::Destination(match self.address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
        message
    }
}

/// An Ethernet address that is always behind one port of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Forwarding {
    /// Index of the port.
    pub port: u32,
    /// The address.
    pub mac: Mac,
}

impl Forwarding {
    /// Puts it there. It goes with the port.
    pub fn replace(self) -> Change {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = self.port;
        // NUD_NOARP is a static entry; NUD_PERMANENT would mean an address of the bridge's own.
        message.header.state = NeighbourState::Noarp;
        message.header.flags = NeighbourFlags::Controller;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec()));
        let what = format!("forward {} to bridge port {}", self.mac, self.port);
        Change::new(what, Message::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }
}

impl Netlink {
    /// The static forwarding entries of all bridge ports.
    pub async fn forwardings(&self) -> Result<Vec<Forwarding>, Error> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        let list = self.dump("list bridge forwarding entries", &Message::GetNeighbour(request)).await?;
        let entry = |message: Message| match message {
            Message::NewNeighbour(message) if message.header.state == NeighbourState::Noarp => {
                let mac = link_layer_address(&message)?;
                Some(Forwarding { port: message.header.ifindex, mac })
            }
            _ => None,
        };
        Ok(list.into_iter().filter_map(entry).collect())
    }

    /// The permanent neighbours on all devices.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let request = NeighbourMessage::default();
        let list = self.dump("list neighbours", &Message::GetNeighbour(request)).await?;
        Ok(list.into_iter().filter_map(from_message).collect())
    }
}

fn from_message(message: Message) -> Option<Neighbour> {
    let Message::NewNeighbour(message) = message else { return None };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    let mac = link_layer_address(&message)?;
    Some(Neighbour { device: message.header.ifindex, address, mac })
}

fn link_layer_address(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::from_bytes(bytes),
        _ => None,
    })
}
