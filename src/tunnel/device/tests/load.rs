//! What a device does when many want handshakes at once.

use std::net::SocketAddr;

use super::super::identity::{Identity as Own, Proof};
use super::super::noise::Noise;
use super::*;

fn attacker(number: u32) -> SocketAddr {
    let [_, _, high, low] = number.to_be_bytes();
    SocketAddr::from(([198, 18, high, low], 9))
}

/// Initiations to node 0 of a key that nobody knows, from so many addresses, each with the cookie of its address.
fn proven(net: &Net, sources: u32) -> Vec<(SocketAddr, Vec<u8>)> {
    let target = &net.nodes[0].device.identities[0].identity;
    let mut noise = Noise::new(&Own::new(&private(200, 1)), &target.public(), None, 1);
    let mut message = noise.initiate().unwrap();
    let sources = (0..sources).map(attacker);
    let messages = sources.map(|from| {
        let Some(Proof::Asked(cookie)) = target.prove(&message, from.ip(), true) else { panic!("no cookie") };
        noise.cookie(&cookie).unwrap();
        message = noise.initiate().unwrap();
        (from, message.clone())
    });
    messages.collect()
}

/// Node 0, which begins no handshake, and peers of it that have not begun yet.
fn hub(peers: u8) -> Net {
    let mut net = Net::new(Wire::default());
    net.add();
    net.apply(0, &config(0, peers + 1));
    for _ in 0..peers {
        net.add();
    }
    net.drop = Some(Box::new(|flight| flight.is_initiation() && flight.from == address(0)));
    net
}

fn begin(net: &mut Net, node: u8) {
    net.apply(
        node.into(),
        &Config { identities: vec![identity(node, 1)], peers: vec![peer(0)], ..Config::default() },
    );
}

/// Lets time go by, with 8 datagrams of `flood` in each millisecond.
fn flooded(
    net: &mut Net,
    flood: &[(SocketAddr, Vec<u8>)],
    time: Duration,
    mut done: impl FnMut(&Net) -> bool,
) -> Option<Duration> {
    let start = net.now;
    let mut flood = flood.iter().cycle();
    while net.now < start + time {
        for (from, bytes) in flood.by_ref().take(8) {
            net.deliver(0, *from, bytes);
        }
        net.run(MILLISECOND);
        net.log.clear();
        if done(net) {
            return Some(net.now - start);
        }
    }
    None
}

#[test]
fn sources_that_proved_their_addresses_get_a_bounded_number_of_handshakes() {
    let mut net = hub(1);
    let flood = proven(&net, 4096);
    flooded(&mut net, &flood, SECOND, |_| false);
    let opened = net.counters(0).unknown_datagram;
    assert!(opened <= 500 + 1000, "{opened} of 8,000 opened in a second");
}

#[test]
fn peers_get_in_while_strangers_flood() {
    let mut net = hub(20);
    let flood = proven(&net, 4096);
    flooded(&mut net, &flood, SECOND, |_| false);
    for node in 1..=20 {
        begin(&mut net, node);
    }
    let all = |net: &Net| (1..=20).all(|node| net.is_established(node, 0));
    let took = flooded(&mut net, &flood, 10 * SECOND, all).expect("sessions with all peers");
    assert!(took <= 100 * MILLISECOND, "{took:?}");
}

#[test]
fn a_peer_at_a_new_address_gets_in_while_strangers_flood() {
    let mut net = hub(1);
    let flood = proven(&net, 4096);
    net.relocate(1, "203.0.113.9:4500".parse().unwrap());
    flooded(&mut net, &flood, SECOND, |_| false);
    begin(&mut net, 1);
    let took = flooded(&mut net, &flood, 20 * SECOND, |net| net.is_established(1, 0)).expect("a session");
    assert!(took <= 6 * SECOND, "{took:?}");
}

#[test]
fn peers_get_in_while_their_addresses_are_forged() {
    let mut net = hub(20);
    let [(_, message)] = &proven(&net, 1)[..] else { panic!("one") };
    let flood: Vec<_> = (1..=20).map(|node| (address(node), message.clone())).collect();
    flooded(&mut net, &flood, SECOND, |_| false);
    for node in 1..=20 {
        begin(&mut net, node);
    }
    let all = |net: &Net| (1..=20).all(|node| net.is_established(node, 0));
    let took = flooded(&mut net, &flood, 20 * SECOND, all).expect("sessions with all peers");
    assert!(took <= 6 * SECOND, "{took:?}");
}

/// Node 0's configuration with so many peers, each with an address of its own outside and inside.
fn fleet(count: u16) -> Config {
    let peers = (0..count).map(|number| {
        let [high, low] = number.to_be_bytes();
        let secret = PrivateKey::from_bytes([&[7, high, low][..], &[9; 29]].concat().try_into().unwrap());
        let keys = vec![PeerKey {
            public_key: secret.public_key(),
            epoch: 1,
            preshared_key: None,
            is_retired: false,
        }];
        let allowed_ips = vec![inside(number).into()];
        Peer {
            name: format!("peer-{number}"),
            keys,
            endpoints: vec![outside(number)],
            allowed_ips,
            ..peer(9)
        }
    });
    Config { identities: vec![identity(0, 1)], peers: peers.collect(), ..Config::default() }
}

fn outside(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([198, 18, high, low], 51830))
}

fn inside(number: u16) -> std::net::IpAddr {
    let [high, low] = number.to_be_bytes();
    std::net::IpAddr::from([100, 64, high, low])
}

/// A packet to peer `number` of a fleet.
fn to(number: u16) -> Vec<u8> {
    let mut packet = packet(0, 0, 1, 64);
    let [high, low] = number.to_be_bytes();
    packet[16..20].copy_from_slice(&[100, 64, high, low]);
    packet
}

/// A device that comes back among 5,000 peers, 500 of which are busy: for 300 of them packets wait here, the other 200 send
/// on sessions that are lost. Busy peers come first, all are begun with in time, and no call takes long.
#[test]
fn busy_peers_come_first_and_all_peers_soon() {
    let start = std::time::Instant::now();
    let mut device = Device::new(MTU, start);
    device.apply(&fleet(5000), start).unwrap();
    let mut begun = std::collections::HashMap::new();
    let mut now = start;
    let mut most = 0;
    while begun.len() < 5000 && now < start + 10 * SECOND {
        device.handle_timeout(now);
        if begun.is_empty() {
            for number in 4500..4800 {
                let peer = device.route(inside(number)).unwrap();
                device.seal(peer, &to(number), &mut [0; 256], now);
            }
            for number in 4800..5000 {
                let stray = [&[4, 0, 0, 0][..], &[7; 60]].concat();
                device.open(outside(number).into(), &stray, &mut [0; 64], now);
            }
        }
        let mut count = 0;
        while let Some(transmit) = device.poll_transmit() {
            count += 1;
            begun.entry(transmit.to.address).or_insert(now - start);
        }
        most = most.max(count);
        now = device.poll_timeout().expect("handshakes are under way").max(now);
    }
    let last = |numbers: std::ops::Range<u16>| {
        numbers.map(|number| begun.get(&outside(number)).copied().unwrap_or(Duration::MAX)).max().unwrap()
    };
    let (busy, all) = (last(4500..5000), last(0..5000));
    assert!(busy <= 300 * MILLISECOND, "busy peers were begun with after {busy:?}");
    assert!(all <= 2600 * MILLISECOND, "all peers were begun with after {all:?}");
    assert!(most <= 32, "{most} handshakes at once");
}

#[test]
fn nodes_that_start_together_begin_with_different_peers() {
    let now = std::time::Instant::now();
    let first = |_| {
        let mut device = Device::new(MTU, now);
        device.apply(&fleet(100), now).unwrap();
        device.handle_timeout(now);
        device.poll_transmit().expect("an initiation").to.address
    };
    let firsts: std::collections::HashSet<_> = (0..20).map(first).collect();
    assert!(firsts.len() > 10, "20 nodes began with {} peers", firsts.len());
}

#[test]
fn peers_that_never_answer_leave_room_for_packets_to_others() {
    let now = std::time::Instant::now();
    let mut device = Device::new(9000, now);
    device.apply(&fleet(5000), now).unwrap();
    let mut send = |number: u16, length: usize| {
        let peer = device.route(inside(number)).unwrap();
        let mut packet = to(number);
        packet.resize(length, 0);
        let sealed = device.seal(peer, &packet, &mut [0; 9100], now);
        (sealed, device.shared.waiting_bytes())
    };
    for number in 0..4000 {
        for _ in 0..128 {
            send(number, 1420);
        }
    }
    for number in 4000..5000 {
        for _ in 0..4 {
            let (sealed, bytes) = send(number, 1420);
            assert_eq!(sealed, Sealed::Queued, "peer {number} with {bytes} bytes waiting");
        }
    }
    let (_, bytes) = send(4999, 1420);
    assert!(bytes <= (16 << 20) + 5000 * 4 * 1420, "{bytes} bytes wait");
    for index in 4000..5000 {
        assert_eq!(device.peers[index].as_mut().unwrap().take_waiting(&mut device.shared).len(), 4);
    }
}
