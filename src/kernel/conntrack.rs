//! The kernel's table of connections (ctnetlink): finds those that NAT rules decided about too early, or that lead to
//! somebody who is gone, and makes the kernel forget them. The next packet of each is then a first one again.
//!
//! Acts in the network namespace of the calling thread. The kernel lists the connections of one protocol, which takes about a
//! microsecond each, and looks at all others: not for hot paths.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::{Socket, SocketAddr as Address, protocols::NETLINK_NETFILTER};

use super::nft::wire::{Message, Writer, find, messages, u32_at};
use super::protocol::Protocol;

/// `NFNL_SUBSYS_CTNETLINK` in the upper half of a message's type, `IPCTNL_MSG_CT_GET` and `_DELETE` in the lower.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const NESTED: u16 = 1 << 15;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `CTA_*` (`linux/netfilter/nfnetlink_conntrack.h`).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// `CTA_FILTER_*`, and the flag of the transport protocol in there.
const ORIGINAL_FLAGS: u16 = 1;
const REPLY_FLAGS: u16 = 2;
const BY_PROTOCOL: u32 = 1 << 3;
/// `CTA_TUPLE_*` and what is inside.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const SOURCE: [u16; 2] = [1, 3];
const DESTINATION: [u16; 2] = [2, 4];
const PROTOCOL: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// The kernel makes datagrams of at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// The table can't be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    what: &'static str,
    source: io::Error,
}

/// A connection of a protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Who began it.
    pub client: SocketAddr,
    /// Where its first packet was sent to.
    pub target: SocketAddr,
    /// Who answers: another than the target where the destination was translated.
    pub server: SocketAddr,
}

/// Forgets all connections of a protocol that `stale` picks; gives their number.
///
/// # Errors
/// [`Error`]: what was picked before is forgotten.
pub fn forget(protocol: Protocol, stale: impl Fn(&Connection) -> bool) -> Result<usize, Error> {
    let socket = open().map_err(failed("open a netlink socket"))?;
    let mut picked = vec![];
    // Kernels before 5.8 know no filter, and list all.
    let stale = |found: &Connection| found.protocol == protocol.number() && stale(found);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let listed = dump(&socket, family, protocol, |message| picked.extend(pick(message, stale)));
        listed.map_err(failed("list connections"))?;
    }
    for deletion in &picked {
        delete(&socket, deletion).map_err(failed("forget a connection"))?;
    }
    Ok(picked.len())
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error { what, source }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&Address::new(0, 0))?;
    socket.set_cap_ack(true)?;
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    Ok(socket)
}

fn dump(
    socket: &Socket,
    family: i32,
    protocol: Protocol,
    mut each: impl FnMut(&Message<'_>),
) -> io::Result<()> {
    let family = u8::try_from(family).unwrap_or_default();
    let mut out = Writer::default();
    out.message(GET, REQUEST | DUMP, 0, &[family, 0, 0, 0], |out| {
        out.nest(ORIGINAL, |out| {
            out.nest(TUPLE_PROTOCOL, |out| out.put(PROTOCOL, &[protocol.number()]));
        });
        out.nest(FILTER, |out| {
            out.put(ORIGINAL_FLAGS, &BY_PROTOCOL.to_ne_bytes());
            out.put(REPLY_FLAGS, &[0; 4]);
        });
    });
    socket.send(out.finish().unwrap_or_default(), 0)?;
    loop {
        let datagram = receive(socket)?;
        for message in messages(&datagram) {
            match message.kind {
                ERROR | DONE => return outcome(&message),
                _ => each(&message),
            }
        }
    }
}

/// Gone meanwhile is fine.
fn delete(socket: &Socket, deletion: &[u8]) -> io::Result<()> {
    socket.send(deletion, 0)?;
    let datagram = receive(socket)?;
    match messages(&datagram).next().map_or(Ok(()), |message| outcome(&message)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        match socket.recv(&mut datagram, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(|_| datagram),
        }
    }
}

fn outcome(message: &Message<'_>) -> io::Result<()> {
    match u32_at(message.payload, 0).map_or(0, |code| -code.cast_signed()) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The message that deletes a listed connection, if `stale` picks it.
fn pick(message: &Message<'_>, stale: impl Fn(&Connection) -> bool) -> Option<Vec<u8>> {
    let (family, body) = (*message.payload.first()?, message.payload.get(4..)?);
    if !stale(&connection(body)?) {
        return None;
    }
    let original = find(body, ORIGINAL)?;
    let mut out = Writer::default();
    out.message(DELETE, REQUEST | ACK, 0, &[family, 0, 0, 0], |out| {
        out.put(ORIGINAL | NESTED, original);
        for kind in [ID, ZONE] {
            find(body, kind).into_iter().for_each(|value| out.put(kind, value));
        }
    });
    out.finish().map(<[u8]>::to_vec)
}

/// None for protocols without ports.
fn connection(body: &[u8]) -> Option<Connection> {
    let (original, reply) = (find(body, ORIGINAL)?, find(body, REPLY)?);
    Some(Connection {
        protocol: *find(find(original, TUPLE_PROTOCOL)?, PROTOCOL)?.first()?,
        client: end(original, SOURCE, SOURCE_PORT)?,
        target: end(original, DESTINATION, DESTINATION_PORT)?,
        server: end(reply, SOURCE, SOURCE_PORT)?,
    })
}

fn end(tuple: &[u8], address: [u16; 2], port: u16) -> Option<SocketAddr> {
    let ip = find(tuple, TUPLE_IP)?;
    let [v4, v6] = address.map(|kind| find(ip, kind));
    let address: IpAddr = match (v4, v6) {
        (Some(v4), _) => <[u8; 4]>::try_from(v4).ok()?.into(),
        (_, Some(v6)) => <[u8; 16]>::try_from(v6).ok()?.into(),
        _ => return None,
    };
    let port = <[u8; 2]>::try_from(find(find(tuple, TUPLE_PROTOCOL)?, port)?).ok()?;
    Some(SocketAddr::new(address, u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tuple(out: &mut Writer, kind: u16, source: ([u8; 4], u16), destination: ([u8; 4], u16)) {
        out.nest(kind, |out| {
            out.nest(TUPLE_IP, |out| {
                out.put(SOURCE[0], &source.0);
                out.put(DESTINATION[0], &destination.0);
            });
            out.nest(TUPLE_PROTOCOL, |out| {
                out.put(PROTOCOL, &[17]);
                out.put(SOURCE_PORT, &source.1.to_be_bytes());
                out.put(DESTINATION_PORT, &destination.1.to_be_bytes());
            });
        });
    }

    #[test]
    fn a_translated_connection_is_read() {
        let mut out = Writer::default();
        out.message(1 << 8, 0, 0, &[2, 0, 0, 0], |out| {
            tuple(out, ORIGINAL, ([192, 0, 2, 9], 1000), ([192, 0, 2, 1], 53));
            tuple(out, REPLY, ([10, 1, 0, 2], 5353), ([192, 0, 2, 9], 1000));
            out.put(ID, &[1, 2, 3, 4]);
        });
        let bytes = out.finish().unwrap().to_vec();
        let message = messages(&bytes).next().unwrap();
        let wanted = Connection {
            protocol: 17,
            client: "192.0.2.9:1000".parse().unwrap(),
            target: "192.0.2.1:53".parse().unwrap(),
            server: "10.1.0.2:5353".parse().unwrap(),
        };
        let deletion = pick(&message, |found| *found == wanted).unwrap();
        let deletion = messages(&deletion).next().unwrap();
        assert_eq!((deletion.kind, deletion.payload[0]), (DELETE, 2));
        assert_eq!(find(&deletion.payload[4..], ORIGINAL), find(&message.payload[4..], ORIGINAL));
        assert_eq!(find(&deletion.payload[4..], ID), Some(&[1, 2, 3, 4][..]));
        assert_eq!(pick(&message, |_| false), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = connection(&bytes);
            messages(&bytes).for_each(|message| drop(pick(&message, |_| true)));
        }
    }
}
