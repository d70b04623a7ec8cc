//! Neighbours: who has which Ethernet address. Only permanent entries, which no ARP or ND packet changes.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;

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

impl Netlink {
    /// The permanent neighbours of `device`.
    pub async fn neighbours(&self, device: u32) -> Result<Vec<Neighbour>, Error> {
        let mut request = NeighbourMessage::default();
        request.attributes.push(NeighbourAttribute::IfIndex(device));
        let list = self.dump("list neighbours", &Message::GetNeighbour(request)).await?;
        Ok(list.into_iter().filter_map(from_message).filter(|found| found.device == device).collect())
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
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::from_bytes(bytes),
        _ => None,
    })?;
    Some(Neighbour { device: message.header.ifindex, address, mac })
}
