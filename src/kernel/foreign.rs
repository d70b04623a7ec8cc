//! Everybody's routes, to look at and never to change.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::ROUTE_PROTOCOL;
use super::netlink::{Error, Netlink};

/// A route that forwards, of whatever origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyRoute {
    /// Where to; length 0 for a default route.
    pub destination: IpNet,
    /// Routing table.
    pub table: u32,
    /// Whether it carries our protocol.
    pub ours: bool,
    /// Index of the devices it uses: several for a multipath route.
    pub devices: Vec<u32>,
}

impl Netlink {
    /// Every unicast route, in all tables and both families.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub async fn all_routes(&self) -> Result<Vec<AnyRoute>, Error> {
        let list = self.dump("list all routes", &Message::GetRoute(RouteMessage::default())).await?;
        Ok(list.into_iter().filter_map(from_message).collect())
    }
}

fn from_message(message: Message) -> Option<AnyRoute> {
    let Message::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut to, mut table, mut devices) = (any, u32::from(header.table), Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => to = (*address).into(),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    let destination = IpNet::new(to, header.destination_prefix_length).ok()?;
    let ours = header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL);
    Some(AnyRoute { destination, table, ours, devices })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::link::{Bridge, Id};
    use crate::kernel::mac::Mac;
    use crate::kernel::route::Route;

    #[test]
    fn lists_ours_and_others() {
        selvedge_lab::isolated!(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let netlink = Netlink::new().unwrap();
                let bridge = Bridge { name: "br", mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, group: 0 };
                let device = netlink.ensure_bridge(&bridge).await.unwrap().index;
                let address: IpNet = "192.0.2.1/24".parse().unwrap();
                let ours: IpNet = "198.51.100.0/24".parse().unwrap();
                let add = crate::kernel::address::Address::new(device, address).add();
                netlink.apply([add, Route::on_link(ours, device).replace()]).await.unwrap();
                assert!(netlink.link(Id::Index(device)).await.unwrap().is_some());
                let routes = netlink.all_routes().await.unwrap();
                let found = |net: IpNet| routes.iter().find(|route| route.destination == net).unwrap();
                let kernels = found(address.trunc());
                assert_eq!((kernels.ours, &kernels.devices, kernels.table), (false, &vec![device], 254));
                assert!(found(ours).ours);
            });
        });
    }
}
