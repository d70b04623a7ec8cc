//! SCTP on raw sockets: not every kernel has sockets of SCTP.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::kernel::structure;
use super::*;
use crate::kernel::nft::{Connection, Ip};
use crate::kernel::{LINK_GROUP, netns::NetNs, sysctl};
use crate::service::balancer::Balancer;
use crate::service::table::counters;

const GATEWAYS: [&str; 2] = ["10.244.1.1", "fd00:10:244:1::1"];
const CLIENTS: [&str; 2] = ["10.244.1.2", "fd00:10:244:1::2"];
const ENDPOINTS: [&str; 2] = ["10.244.1.3", "fd00:10:244:1::3"];
const SERVICES: [&str; 2] = ["10.96.0.1", "fd96::1"];

/// Chunk types of RFC 9260, section 3.2.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// A pod with these addresses, on a device of the namespace of the calling thread.
fn pod(device: &str, addresses: [&str; 2]) -> NetNs {
    let ns = NetNs::create().unwrap();
    let there = format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
    ip(&format!("link add {device} group {LINK_GROUP} type veth peer name eth0 netns {there}"));
    ip(&format!("link set {device} up"));
    for (address, gateway) in addresses.into_iter().zip(GATEWAYS) {
        ip(&format!("address add {gateway} dev {device} nodad"));
        ip(&format!("route add {address} dev {device}"));
    }
    ns.run(|| {
        ip("link set eth0 up");
        for (address, gateway) in addresses.into_iter().zip(GATEWAYS) {
            ip(&format!("address add {address} dev eth0 nodad"));
            ip(&format!("route add {gateway} dev eth0"));
            ip(&format!("route add default via {gateway} src {address}"));
        }
    })
    .unwrap();
    ns
}

/// CRC32c (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _| crc >> 1 ^ POLYNOMIAL & (crc & 1).wrapping_neg();
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A packet with one chunk, INIT or INIT ACK, from one port to another.
fn packet([from, to]: [u16; 2], tag: u32, chunk: u8) -> Vec<u8> {
    let own_tag = 0x0102_0304_u32;
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(own_tag.to_be_bytes());
    // Receiver window, streams out and in, initial TSN.
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// The ports, the verification tag and the chunk of a packet whose checksum is right.
fn parse(packet: &[u8]) -> ([u16; 2], u32, u8) {
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(packet[8..12], crc32c(&zeroed).to_le_bytes(), "the checksum is right: {packet:x?}");
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    ([port(0), port(2)], u32::from_be_bytes(packet[4..8].try_into().unwrap()), packet[12])
}

/// A socket of a pod that receives what `peer` sends to `own`, and nothing else.
fn socket(pod: &NetNs, own: IpAddr, peer: IpAddr) -> Socket {
    let (own, peer) = (SocketAddr::new(own, 0), SocketAddr::new(peer, 0));
    let open = || Socket::new(Domain::for_address(own), Type::RAW, Some(libc::IPPROTO_SCTP.into())).unwrap();
    let socket = pod.run(open).unwrap();
    socket.bind(&own.into()).unwrap();
    socket.connect(&peer.into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// The next packet, without the IPv4 header that a raw socket shows.
fn receive(mut socket: &Socket, of: Ip) -> std::io::Result<Vec<u8>> {
    let mut buffer = [0; 256];
    let length = socket.read(&mut buffer)?;
    let start = if of == Ip::V4 { usize::from(buffer[0] & 15) * 4 } else { 0 };
    Ok(buffer[start..length].to_vec())
}

#[test]
fn crc32c_has_its_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn an_association_begins_through_a_service() {
    selvedge_lab::isolated!(|| {
        ip("link set lo up");
        sysctl::write("ipv4/ip_forward", "1").unwrap();
        sysctl::write("ipv6/conf/all/forwarding", "1").unwrap();
        let (client_pod, endpoint_pod) = (pod("client", CLIENTS), pod("endpoint", ENDPOINTS));
        let mut balancer = Balancer::default();
        balancer.set_node(node());
        let mut both = service(SERVICES[0]);
        both.cluster_ips.push(address(SERVICES[1]));
        both.ports[0].protocol = Protocol::Sctp;
        balancer.set_service(&name("web"), Some(Arc::new(both)));
        let mut set = |addresses: &[&str]| {
            for at in ["v4", "v6"] {
                let family = addresses.iter().filter(|address| address.contains(':') == (at == "v6"));
                let mut slice = slice(family.map(|at| endpoint(at, "here")).collect());
                slice.ports[0].protocol = Protocol::Sctp;
                balancer.set_slice(&name("web"), at, Some(Arc::new(slice)));
            }
            balancer.update();
            let mut table = structure().table();
            balancer.fill(&mut table);
            Connection::open().unwrap().apply(&[table]).unwrap();
        };
        set(&ENDPOINTS);
        for (at, of) in Ip::BOTH.into_iter().enumerate() {
            let [own, endpoint, service] = [CLIENTS[at], ENDPOINTS[at], SERVICES[at]].map(address);
            let server = socket(&endpoint_pod, endpoint, own);
            let client = socket(&client_pod, own, service);
            client.send(&packet([4000, 80], 0, INIT)).unwrap();
            assert_eq!(parse(&receive(&server, of).unwrap()), ([4000, 8080], 0, INIT));
            let tag = 0x0102_0304;
            server.send(&packet([8080, 4000], tag, INIT_ACK)).unwrap();
            assert_eq!(parse(&receive(&client, of).unwrap()), ([80, 4000], tag, INIT_ACK));
        }
        set(&[]);
        for (at, of) in Ip::BOTH.into_iter().enumerate() {
            let client = socket(&client_pod, address(CLIENTS[at]), address(SERVICES[at]));
            client.send(&packet([4001, 80], 0, INIT)).unwrap();
            let kind = receive(&client, of).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::ConnectionRefused), "ICMP port unreachable");
        }
        assert_eq!(counters().unwrap()["rejected"].packets, 2);
    });
}
