//! Network devices: bridges, veth pairs, bridge ports.

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use super::mac::Mac;
use super::netlink::{Change, Error, Netlink};
use super::netns::NetNs;

/// A device as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, `tun`, ...; nothing for hardware and loopback.
    pub kind: Option<String>,
    /// Ethernet address; TUN devices have none.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Link group.
    pub group: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier.
    pub carrier: bool,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Index of the other end of a veth, in the other end's namespace.
    pub peer: Option<u32>,
    /// What it is allowed to do as a bridge port.
    pub port: Option<Port>,
}

/// Flags of a bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Port {
    /// Isolated ports reach only the bridge device, never each other.
    pub isolated: bool,
    /// May frames leave by the port they came in by.
    pub hairpin: bool,
    /// Learn source addresses.
    pub learning: bool,
    /// Send frames for unknown unicast addresses here.
    pub unicast_flood: bool,
    /// Send unregistered multicast here.
    pub multicast_flood: bool,
    /// Send broadcasts here.
    pub broadcast_flood: bool,
}

/// Names a device in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id<'a> {
    /// By number.
    Index(u32),
    /// By name.
    Name(&'a str),
}

/// A bridge to make.
#[derive(Debug, Clone)]
pub struct Bridge<'a> {
    /// Name of the device.
    pub name: &'a str,
    /// Its address; a bridge without one takes a port's, and changes it.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// Link group.
    pub group: u32,
}

/// A veth pair to make. Both ends start down.
#[derive(Debug)]
pub struct Veth<'a> {
    /// The end in the socket's own namespace.
    pub end: End<'a>,
    /// The other end.
    pub peer: End<'a>,
    /// Where the other end goes; nothing: the same namespace.
    pub peer_ns: Option<&'a NetNs>,
}

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// Name of the device.
    pub name: &'a str,
    /// Its address; nothing: a random one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Link group.
    pub group: u32,
}

/// What to change of a device; nothing means: leave.
#[derive(Debug, Clone, Default)]
pub struct Update<'a> {
    /// Up or down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Link group.
    pub group: Option<u32>,
    /// Ethernet address.
    pub mac: Option<Mac>,
    /// Whether the kernel gives it an IPv6 link-local address as it comes up. It has to be set by an
    /// earlier change than `up`: the kernel looks at the flags first.
    pub link_local: Option<bool>,
    /// Index of the bridge to join; 0 leaves it.
    pub master: Option<u32>,
    /// New name; the device has to be down.
    pub name: Option<&'a str>,
    /// Namespace to move to.
    pub ns: Option<&'a NetNs>,
}

impl Bridge<'_> {
    /// Makes it, up. Fails with EEXIST when the name is taken. No spanning tree, no multicast snooping, and it
    /// does not take part in VLANs.
    pub fn create(&self) -> Change {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::Address(self.mac.0.to_vec()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::Group(self.group),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ];
        create(format!("create bridge {}", self.name), message)
    }
}

impl Veth<'_> {
    /// Makes the pair. Fails with EEXIST when one of the names is taken.
    pub fn create(&self) -> Change {
        let mut peer = end(&self.peer);
        peer.attributes.extend(self.peer_ns.map(|ns| LinkAttribute::NetNsFd(ns.raw())));
        let mut message = end(&self.end);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        create(format!("create veth {} with peer {}", self.end.name, self.peer.name), message)
    }
}

fn end(end: &End<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(end.name.to_owned()),
        LinkAttribute::Mtu(end.mtu),
        LinkAttribute::Group(end.group),
    ];
    message.attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message
}

fn create(what: String, message: LinkMessage) -> Change {
    Change::new(what, Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Changes a device.
pub fn update(id: Id<'_>, update: &Update<'_>) -> Change {
    let mut message = named(id);
    if let Some(up) = update.up {
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    }
    let attributes = [
        update.mtu.map(LinkAttribute::Mtu),
        update.group.map(LinkAttribute::Group),
        update.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())),
        update.master.map(LinkAttribute::Controller),
        update.link_local.map(generate_link_local),
        update.ns.map(|ns| LinkAttribute::NetNsFd(ns.raw())),
        // With an index the name is the new name.
        update.name.map(|name| LinkAttribute::IfName(name.to_owned())),
    ];
    message.attributes.extend(attributes.into_iter().flatten());
    Change::new(format!("change {id} ({})", update.summary()), Message::SetLink(message), 0)
}

fn generate_link_local(on: bool) -> LinkAttribute {
    let mode = if on { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])])
}

impl Update<'_> {
    fn summary(&self) -> String {
        let parts = [
            self.up.map(|up| if up { "up" } else { "down" }.to_owned()),
            self.mtu.map(|mtu| format!("mtu {mtu}")),
            self.group.map(|group| format!("group {group}")),
            self.mac.map(|mac| format!("address {mac}")),
            self.link_local.map(|on| format!("link-local address {on}")),
            self.master.map(|master| format!("master {master}")),
            self.name.map(|name| format!("name {name}")),
            self.ns.map(|ns| format!("namespace {}", ns.name().display())),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Sets the flags of a bridge port; it has to be one already.
pub fn set_port(id: Id<'_>, port: Port) -> Change {
    let flags = vec![
        InfoBridgePort::Isolated(port.isolated),
        InfoBridgePort::HairpinMode(port.hairpin),
        InfoBridgePort::Learning(port.learning),
        InfoBridgePort::UnicastFlood(port.unicast_flood),
        InfoBridgePort::MulticastFlood(port.multicast_flood),
        InfoBridgePort::BroadcastFlood(port.broadcast_flood),
    ];
    let mut message = named(id);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(flags)),
    ]));
    Change::new(format!("set bridge port flags of {id}"), Message::NewLink(message), 0)
}

/// Whether the calling thread's namespace has a device of this name: cheaper than a look at all of it.
///
/// # Errors
/// When the kernel does not answer.
pub fn exists(name: &str) -> std::io::Result<bool> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(_) => Ok(true),
        Err(nix::Error::ENODEV | nix::Error::ENXIO) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Deletes a device; gone already is fine.
pub fn delete(id: Id<'_>) -> Change {
    Change::new(format!("delete {id}"), Message::DelLink(named(id)), 0).tolerating(&[libc::ENODEV])
}

fn named(id: Id<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    match id {
        Id::Index(index) => message.header.index = index,
        Id::Name(name) => message.attributes.push(LinkAttribute::IfName(name.to_owned())),
    }
    message
}

impl std::fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(index) => write!(f, "device {index}"),
            Self::Name(name) => write!(f, "device {name}"),
        }
    }
}

impl Netlink {
    /// All devices.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let list = self.dump("list devices", &Message::GetLink(request)).await?;
        Ok(list.into_iter().filter_map(from_message).collect())
    }

    /// One device, if it exists.
    pub async fn link(&self, id: Id<'_>) -> Result<Option<Link>, Error> {
        let mut request = named(id);
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.get(&format!("look up {id}"), &Message::GetLink(request)).await {
            Ok(message) => Ok(from_message(message)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One device by name, if it exists.
    pub async fn link_named(&self, name: &str) -> Result<Option<Link>, Error> {
        self.link(Id::Name(name)).await
    }

    /// Makes the bridge be there as described and up, without touching what is right. Gives it as it is now, and
    /// an error if the name is taken by something that is no bridge.
    pub async fn ensure_bridge(&self, bridge: &Bridge<'_>) -> Result<Link, Error> {
        let what = || format!("create bridge {}", bridge.name);
        let mut found = self.link_named(bridge.name).await?;
        if found.is_none() {
            match self.apply([bridge.create()]).await {
                // Another process was faster.
                Err(error) if error.errno() == Some(libc::EEXIST) => {}
                done => done?,
            }
            found = self.link_named(bridge.name).await?;
        }
        let link = found.ok_or_else(|| Error::Unsteady(what()))?;
        if link.kind.as_deref() != Some("bridge") {
            return Err(Error::Refused {
                what: what(),
                source: std::io::Error::from_raw_os_error(libc::EEXIST),
                detail: " (a device of another kind has this name)".to_owned(),
            });
        }
        let wanted = Update {
            up: (!link.up).then_some(true),
            mtu: (link.mtu != bridge.mtu).then_some(bridge.mtu),
            group: (link.group != bridge.group).then_some(bridge.group),
            mac: (link.mac != Some(bridge.mac)).then_some(bridge.mac),
            ..Update::default()
        };
        if wanted.summary().is_empty() {
            return Ok(link);
        }
        self.apply([update(Id::Index(link.index), &wanted)]).await?;
        let (mac, mtu, group) = (Some(bridge.mac), bridge.mtu, bridge.group);
        Ok(Link { up: true, mac, mtu, group, ..link })
    }
}

fn from_message(message: Message) -> Option<Link> {
    let Message::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        group: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        master: None,
        peer: None,
        port: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = Mac::from_bytes(&bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::LinkInfo(infos) => read_infos(&mut link, infos),
            _ => {}
        }
    }
    Some(link)
}

fn read_infos(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::PortData(InfoPortData::BridgePort(flags)) => link.port = Some(read_port(&flags)),
            _ => {}
        }
    }
}

fn read_port(flags: &[InfoBridgePort]) -> Port {
    let mut port = Port::default();
    for flag in flags {
        match flag {
            InfoBridgePort::Isolated(on) => port.isolated = *on,
            InfoBridgePort::HairpinMode(on) => port.hairpin = *on,
            InfoBridgePort::Learning(on) => port.learning = *on,
            InfoBridgePort::UnicastFlood(on) => port.unicast_flood = *on,
            InfoBridgePort::MulticastFlood(on) => port.multicast_flood = *on,
            InfoBridgePort::BroadcastFlood(on) => port.broadcast_flood = *on,
            _ => {}
        }
    }
    port
}
