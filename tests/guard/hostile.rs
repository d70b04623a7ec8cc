//! Pods, and a node, that lie: forged sources, tunnels of their own, options, fragments, quoted addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use selvedge::kernel::mac::Mac;
use selvedge::kernel::netns::NetNs;
use selvedge::pod::gateway::BRIDGE_MAC;
use selvedge_lab::isolated;
use selvedge_lab::packet::{self, IPV4, IPV6};
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::Canary;
use selvedge_lab::wire::Wire;
use socket2::{Domain, Protocol, Socket, Type};

use crate::stage::{POD_PORT, SOON, Stage, pod};

const PORT: u16 = 7100;

/// Everybody that a lie may be about, in one family.
struct Cast {
    pod: IpAddr,
    other: IpAddr,
    far: IpAddr,
    fabric: IpAddr,
    node: IpAddr,
    member: IpAddr,
    internet: IpAddr,
    service: IpAddr,
    absent: IpAddr,
}

impl Cast {
    fn of(stage: &Stage, other: &[IpAddr], v6: bool) -> Self {
        let pick = |all: &[IpAddr]| *all.iter().find(|address| address.is_ipv6() == v6).unwrap();
        let of = |text: [&str; 2]| text[usize::from(v6)].parse().unwrap();
        Self {
            pod: pick(&stage.near.addresses),
            other: pick(other),
            far: pick(&stage.far.addresses),
            fabric: pick(&stage.node(0).fabric_addresses()),
            node: pick(&stage.node(0).addresses()),
            member: pick(&stage.node(1).addresses()),
            internet: pick(&stage.lab.plan().internet().addresses()),
            service: of(["10.96.7.7", "fd00:10:96::707"]),
            absent: of(["10.244.200.5", "fd00:10:244:c8::5"]),
        }
    }

    /// Whoever a packet may be for.
    fn anybody(&self) -> [IpAddr; 7] {
        [self.far, self.member, self.internet, self.service, self.absent, self.other, self.node]
    }
}

/// The pod's end of its wire.
struct Liar {
    wire: Wire,
    mac: Mac,
    secret: Vec<u8>,
}

impl Liar {
    fn new(stage: &Stage) -> Self {
        let wire = Wire::open(&stage.near.ns, "eth0").unwrap();
        let read = || std::fs::read_to_string("/proc/net/dev").map(drop);
        stage.near.ns.run(read).unwrap().unwrap();
        Self { wire, mac: mac(&stage.near.ns), secret: stage.secret() }
    }

    fn send(&self, packet: &[u8]) {
        let kind = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
        self.wire.send(&packet::ethernet(BRIDGE_MAC.0, self.mac.0, kind, packet)).unwrap();
    }

    fn udp(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        packet::udp(source, destination, [PORT, POD_PORT], &self.secret)
    }
}

/// Ethernet address of a pod, by asking the kernel for a socket's device.
fn mac(ns: &NetNs) -> Mac {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let netlink = selvedge::kernel::netlink::Netlink::in_ns(ns).unwrap();
        netlink.link_named("eth0").await.unwrap().unwrap().mac.unwrap()
    })
}

/// An IP packet with any payload.
fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => packet::ipv4(source, destination, protocol, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet::ipv6(source, destination, protocol, 64, payload)
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// "Too big" (IPv6) or "fragmentation needed" (IPv4) about a packet.
fn quoting(source: IpAddr, destination: IpAddr, quoted: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet::ipv4(source, destination, 1, &packet::icmp(3, 4, [0, 0, 5, 0xdc], quoted))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet::icmpv6(source, destination, 2, 64, &[&[0, 0, 5, 0xdc][..], quoted].concat())
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// A packet cut into pieces of 16 bytes of payload.
fn fragments(whole: &[u8]) -> Vec<Vec<u8>> {
    const PIECE: usize = 16;
    let v4 = whole[0] >> 4 == 4;
    let header = if v4 { usize::from(whole[0] & 15) * 4 } else { 40 };
    let count = (whole.len() - header).div_ceil(PIECE);
    let pieces = whole[header..].chunks(PIECE).enumerate().map(|(number, piece)| {
        let at = u16::try_from(number * PIECE).unwrap();
        let more = number + 1 < count;
        if v4 {
            let mut packet = [&whole[..header], piece].concat();
            let length = u16::try_from(packet.len()).unwrap();
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            packet[6..8].copy_from_slice(&((at / 8) | (u16::from(more) << 13)).to_be_bytes());
            packet[10..12].fill(0);
            let sum = packet::checksum(&[&packet[..header]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            return packet;
        }
        let address = |at: usize| <[u8; 16]>::try_from(&whole[at..at + 16]).unwrap().into();
        let field = (at | u16::from(more)).to_be_bytes();
        let fragment = [&[whole[6], 0][..], &field, &[0, 0, 0, 9], piece].concat();
        packet::ipv6(address(8), address(24), 44, 64, &fragment)
    });
    pieces.collect()
}

/// An IPv4 packet with these options, of a multiple of four bytes.
fn with_options(whole: &[u8], options: &[u8]) -> Vec<u8> {
    let mut packet = [&whole[..20], options, &whole[20..]].concat();
    packet[0] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    let length = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[10..12].fill(0);
    let sum = packet::checksum(&[&packet[..20 + options.len()]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Record route with the own address in it; loose and strict source routes by way of it; a timestamp; a router alert.
fn options(own: Ipv4Addr, by: Ipv4Addr) -> [Vec<u8>; 5] {
    let route = |kind: u8, at: u8| [&[kind, 11, at][..], &own.octets(), &by.octets(), &[0]].concat();
    let stamp = [&[68, 12, 13, 1][..], &own.octets(), &[0, 0, 1, 0]].concat();
    [route(7, 8), route(131, 4), route(137, 4), stamp, vec![148, 4, 0, 0]]
}

/// The same in IPv6: routing headers of type 0 and 4 by way of `by`, a home address, hop-by-hop options in front.
fn extended(own: Ipv6Addr, to: Ipv6Addr, by: Ipv6Addr, datagram: &[u8]) -> Vec<Vec<u8>> {
    let routing = |kind: u8, next: u8| [&[next, 2, kind, 1, 0, 0, 0, 0][..], &by.octets()].concat();
    let home = [&[17, 2, 1, 2, 0, 0, 201, 16][..], &own.octets()].concat();
    let hops = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let packet = |first: u8, headers: &[u8]| packet::ipv6(own, to, first, 64, &[headers, datagram].concat());
    vec![
        packet(43, &routing(0, 17)),
        packet(43, &routing(4, 17)),
        packet(60, &home),
        packet(0, &[hops(43), routing(0, 17)].concat()),
        packet(0, &[hops(60), home.clone()].concat()),
    ]
}

#[test]
fn pods_lie() {
    isolated!(|| {
        let stage = Stage::start();
        let other = pod(&stage.lab, "other", "node1");
        let liar = Liar::new(&stage);
        let casts = [false, true].map(|v6| Cast::of(&stage, &other.addresses, v6));
        // What the pod says of itself passes: the frames are well made.
        for cast in &casts {
            liar.send(&liar.udp(cast.pod, cast.far));
            let deadline = Instant::now() + SOON;
            let answer = |frame: &[u8]| frame.windows(12).any(|part| part.starts_with(b"{\"name\":\"far"));
            assert!(liar.wire.find(deadline, answer).unwrap().is_some(), "{} answers {}", cast.far, cast.pod);
        }
        stage.scenario("pod forges its source", || {
            for cast in &casts {
                let nobody: IpAddr = if cast.pod.is_ipv6() { [0_u8; 16].into() } else { [0_u8; 4].into() };
                for source in cast.anybody().into_iter().chain([cast.fabric, nobody]) {
                    cast.anybody().iter().for_each(|to| liar.send(&liar.udp(source, *to)));
                }
            }
            stage.keeps_sending(20);
            String::new()
        });
        stage.scenario("pod has tunnels of its own, to nodes", || {
            for cast in &casts {
                let inner = liar.udp(cast.other, cast.far);
                let frame =
                    packet::ethernet([2; 6], [4; 6], if inner[0] >> 4 == 4 { IPV4 } else { IPV6 }, &inner);
                let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &frame].concat();
                let gre = [&[0, 0, 8, 0][..], &inner].concat();
                for to in [cast.member, cast.node, cast.fabric, cast.far, cast.absent] {
                    for other in &casts {
                        let inner = liar.udp(other.other, other.far);
                        liar.send(&ip(cast.pod, to, if inner[0] >> 4 == 4 { 4 } else { 41 }, &inner));
                    }
                    liar.send(&ip(cast.pod, to, 47, &gre));
                    for port in [4789, 8472, 6081, 51830] {
                        liar.send(&packet::udp(cast.pod, to, [PORT, port], &vxlan));
                    }
                }
            }
            stage.keeps_sending(20);
            String::new()
        });
        stage.scenario("pod quotes pods in ICMP errors", || {
            for cast in &casts {
                for (from, to) in [(cast.pod, cast.far), (cast.internet, cast.pod), (cast.far, cast.service)]
                {
                    let quoted = liar.udp(from, to);
                    for to in cast.anybody() {
                        let error = quoting(cast.pod, to, &quoted);
                        liar.send(&error);
                        fragments(&error).iter().for_each(|piece| liar.send(piece));
                    }
                }
            }
            stage.keeps_sending(20);
            String::new()
        });
        stage.scenario("pod sends fragments", || {
            for cast in &casts {
                for to in cast.anybody().into_iter().filter(|to| *to != cast.internet) {
                    let pieces = fragments(&liar.udp(cast.pod, to));
                    pieces.iter().for_each(|piece| liar.send(piece));
                    // Backwards, without the first, without the last.
                    pieces.iter().rev().for_each(|piece| liar.send(piece));
                    pieces[1..].iter().for_each(|piece| liar.send(piece));
                    pieces[..pieces.len() - 1].iter().for_each(|piece| liar.send(piece));
                }
            }
            stage.keeps_sending(20);
            String::new()
        });
        stage.scenario("pod sends options and extension headers", || {
            for cast in &casts {
                for to in cast.anybody() {
                    let payload =
                        if to == cast.internet { stage.plain.fill(64) } else { liar.secret.clone() };
                    let whole = packet::udp(cast.pod, to, [PORT, POD_PORT], &payload);
                    for by in [cast.far, cast.member, cast.pod] {
                        let packets = match (cast.pod, to, by) {
                            (IpAddr::V4(own), _, IpAddr::V4(by)) => {
                                options(own, by).iter().map(|options| with_options(&whole, options)).collect()
                            }
                            (IpAddr::V6(own), IpAddr::V6(to), IpAddr::V6(by)) => {
                                extended(own, to, by, &whole[40..])
                            }
                            _ => panic!("a cast of one family"),
                        };
                        for packet in packets {
                            liar.send(&packet);
                            fragments(&packet).iter().for_each(|piece| liar.send(piece));
                        }
                    }
                }
            }
            stage.keeps_sending(20);
            String::new()
        });
        stage.scenario("a node forges sources through the tunnel", || forging_node(&stage, &casts));
        stage.recovers("answers at the end");
        stage.end();
    });
}

/// Someone on the second node, with all rights there, sends as others into the tunnel. The near pod hears none of it.
fn forging_node(stage: &Stage, casts: &[Cast]) -> String {
    let marker = Canary::random().unwrap();
    let open = || UdpSocket::bind(SocketAddr::new([0_u16; 8].into(), PORT));
    let listening = stage.near.ns.run(open).unwrap().unwrap();
    listening.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let ns = stage.node(1).space();
    let mut forged = 0;
    for cast in casts {
        let domain = if cast.pod.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let raw = || Socket::new(domain, Type::RAW, Some(Protocol::from(255))).unwrap();
        let socket = ns.net().run(raw).unwrap();
        if domain == Domain::IPV4 {
            socket.set_header_included_v4(true).unwrap();
        } else {
            socket.set_header_included_v6(true).unwrap();
        }
        let to = SocketAddr::new(cast.pod, 0);
        let tell = |source: IpAddr, payload: &[u8]| {
            socket.send_to(&packet::udp(source, cast.pod, [PORT, PORT], payload), &to.into()).is_ok()
        };
        for source in [cast.other, cast.pod, cast.absent] {
            forged += usize::from(tell(source, &marker.fill(64)));
        }
        // Its own address is its to use: what is forged would come before this.
        wait_for("an honest packet", SOON, || {
            assert!(tell(cast.far, b"honest"));
            let mut buffer = [0; 256];
            let heard = listening.recv(&mut buffer);
            heard.is_ok_and(|length| {
                assert_eq!(&buffer[..length], b"honest", "the pod hears what was forged");
                true
            })
        })
        .unwrap();
    }
    assert!(forged >= 4, "only {forged} forged packets could be sent");
    format!("{forged} forged packets refused")
}
