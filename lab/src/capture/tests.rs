//! Captures in namespaces of their own: everything is seen, nothing is dropped, planted frames are found.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use ipnet::{IpNet, Ipv4Net};
use selvedge::kernel::address::Address;
use selvedge::kernel::link::{self, End, Id, Update, Veth};
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::netns::NetNs;

use super::{Capture, Samples};
use crate::detect::Detector;

const LEFT: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 2);
const BASELINE: u16 = 5201;

/// This namespace (`left`) and another (`right`) with a cable between.
fn pair() -> (NetNs, NetNs) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (here, there) = (NetNs::current().unwrap(), NetNs::create().unwrap());
    runtime.block_on(async {
        let (near, far) = (Netlink::in_ns(&here).unwrap(), Netlink::in_ns(&there).unwrap());
        let end = |name| End { name, mac: None, mtu: 1500, group: 0 };
        let cable = Veth { end: end("left"), peer: end("right"), peer_ns: Some(&there) };
        near.apply([cable.create()]).await.unwrap();
        for (netlink, name, address) in [(near, "left", LEFT), (far, "right", RIGHT)] {
            let index = netlink.link_named(name).await.unwrap().unwrap().index;
            let up = Update { up: Some(true), ..Update::default() };
            let net = IpNet::V4(Ipv4Net::new(address, 24).unwrap());
            netlink
                .apply([Address::new(index, net).add(), link::update(Id::Index(index), &up)])
                .await
                .unwrap();
        }
    });
    (here, there)
}

fn capture(ns: &NetNs) -> Capture {
    let nets = |text: &str| vec![text.parse().unwrap()];
    let detector = Detector::new(&nets("10.244.0.0/16"), &nets("10.96.0.0/16"), b"the-canary");
    let mut capture = Capture::new(detector, Some(BASELINE));
    capture.add(ns, "left", 32).unwrap();
    capture
}

/// Sends `bytes` of `payload` from one end to the other on `port`.
fn transfer(right: &NetNs, port: u16, payload: &[u8], bytes: usize) {
    let listener = TcpListener::bind((LEFT, port)).unwrap();
    let mut client = right.run(|| TcpStream::connect((LEFT, port)).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            let mut total = 0;
            while total < bytes {
                total += server.read(&mut buffer).unwrap();
            }
        });
        for _ in 0..bytes / payload.len() {
            client.write_all(payload).unwrap();
        }
        reader.join().unwrap();
    });
}

#[test]
fn every_frame_is_seen_and_leaks_are_counted() {
    crate::isolated!(|| {
        let (here, there) = pair();
        let capture = capture(&here);
        let [before] = &capture.seen().unwrap()[..] else { panic!("one link") };
        let socket = there.run(|| UdpSocket::bind((RIGHT, 7)).unwrap()).unwrap();
        for _ in 0..1000 {
            socket.send_to(b"harmless", (LEFT, 9)).unwrap();
        }
        let [clean] = &capture.seen().unwrap()[..] else { panic!("one link") };
        assert!(clean.frames - before.frames >= 1000, "{clean:?}");
        assert_eq!((clean.leaks, clean.drops), (0, 0), "{clean:?}");
        for _ in 0..30 {
            socket.send_to(b"harm: the-canary", (LEFT, 9)).unwrap();
        }
        let [leaky] = &capture.seen().unwrap()[..] else { panic!("one link") };
        // Port 9 is closed: what is refused is quoted back, and the quote is a leak of its own.
        assert!((30..=60).contains(&leaky.leaks), "{leaky:?}");
        assert_eq!(leaky.examples.len(), super::EXAMPLES);
    });
}

#[test]
fn planted_frames_are_found_and_are_no_leak() {
    crate::isolated!(|| {
        let (here, there) = pair();
        let capture = capture(&here);
        let samples = Samples {
            pods: vec![IpAddr::from([10, 244, 1, 9])],
            services: vec![IpAddr::from([10, 96, 0, 1])],
            nodes: vec![LEFT.into()],
            canary: b"the-canary".to_vec(),
        };
        capture.plant("left", &there, "right", &samples).unwrap();
        let [seen] = &capture.seen().unwrap()[..] else { panic!("one link") };
        assert_eq!(
            (seen.planted, seen.found, seen.leaks),
            (8, 7, 0),
            "a header of nobody's in ciphertext: {seen:?}"
        );
        capture.given().add(samples.pods.iter().copied());
        capture.plant("left", &there, "right", &samples).unwrap();
        let [seen] = &capture.seen().unwrap()[..] else { panic!("one link") };
        assert_eq!((seen.planted, seen.found, seen.leaks), (16, 15, 0), "{seen:?}");
    });
}

/// A header of this pod in the clear, where a WireGuard message has its ciphertext.
fn in_a_message(pod: Ipv4Addr) -> Vec<u8> {
    let packet = crate::packet::udp(pod.into(), RIGHT.into(), [1, 2], b"anything");
    [&[4, 0, 0, 0, 1, 2, 3, 4, 7, 0, 0, 0, 0, 0, 0, 0][..], &packet, &[9; 16]].concat()
}

#[test]
fn lookalikes_are_leaks_once_they_name_somebody_or_are_many() {
    crate::isolated!(|| {
        let (here, there) = pair();
        let capture = capture(&here);
        let socket = there.run(|| UdpSocket::bind((RIGHT, 7)).unwrap()).unwrap();
        // Somebody listens, so that nothing is quoted back.
        let _listening = UdpSocket::bind((LEFT, 9)).unwrap();
        let pods = [2, 3, 4].map(|last| Ipv4Addr::new(10, 244, 1, last));
        let send = |pod| socket.send_to(&in_a_message(pod), (LEFT, 9)).unwrap();
        let seen = || {
            let seen = capture.seen().unwrap();
            let examples =
                seen[0].examples.iter().filter_map(|leak| leak.finding.address).collect::<Vec<_>>();
            (seen[0].leaks, seen[0].lookalikes, examples)
        };
        send(pods[0]);
        send(pods[1]);
        assert_eq!(seen(), (0, 2, vec![]));
        capture.given().add([IpAddr::from(pods[1])]);
        assert_eq!(seen(), (1, 1, vec![pods[1].into()]), "it sent before its address was noted");
        send(pods[0]);
        assert_eq!(seen(), (1, 2, vec![pods[1].into()]));
        send(pods[2]);
        assert_eq!(seen(), (4, 0, vec![pods[1].into(), pods[0].into(), pods[0].into(), pods[2].into()]));
        for _ in 0..200 {
            send(pods[2]);
        }
        assert_eq!(seen().0, 204, "no matter how many");
    });
}

/// A capture that drops frames proves nothing. Bursts of half its buffer lose nothing, however busy the machine is;
/// of the flow of which only headers are kept, 1 GiB fits.
#[test]
fn fast_flows_are_captured_without_drops() {
    crate::isolated!(|| {
        let (here, there) = pair();
        let capture = capture(&here);
        for _ in 0..16 {
            transfer(&there, 9000, &[7; 1 << 16], 16 << 20);
            capture.seen().unwrap();
        }
        transfer(&there, BASELINE, &[7; 1 << 16], 1 << 30);
        let [seen] = &capture.seen().unwrap()[..] else { panic!("one link") };
        assert!(seen.bytes > (256 << 20) + (1 << 30), "{seen:?}");
        assert_eq!((seen.drops, seen.leaks), (0, 0), "{seen:?}");
    });
}

/// Only the payload of the plain flow is left out: its headers, and all of any other flow, are looked at.
#[test]
fn the_plain_flow_is_cut_after_its_headers() {
    crate::isolated!(|| {
        let (here, there) = pair();
        let capture = capture(&here);
        let mut payload = vec![0; 4096];
        payload[2000..2010].copy_from_slice(b"the-canary");
        transfer(&there, BASELINE, &payload, 4096);
        assert_eq!(capture.leaks().unwrap(), 0);
        transfer(&there, BASELINE + 1, &payload, 4096);
        assert!(capture.leaks().unwrap() > 0);
    });
}
