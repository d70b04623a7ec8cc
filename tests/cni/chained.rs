//! A plugin that is chained behind ours: the CNI project's bandwidth plugin, run with our result as libcni does it.

use std::io::Write as _;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge::pod::gateway::BRIDGE_MAC;
use selvedge_lab::packet;
use selvedge_lab::wire::Wire;
use serde_json::{Value, json};

use crate::node::{Node, Pod, Said, in_both, said, soon, tcp};
use crate::spoof::{Cast, count, only_honest};

/// Bits in a second, and how many may come at once before that counts.
const RATE: u64 = 8_000_000;
const BURST: u64 = 800_000;
/// Bytes that take two seconds at that rate.
const BYTES: usize = 2_000_000;

const FORGED: &[u8] = b"a forged packet";
const HONEST: &[u8] = b"an honest packet";

/// Where tests/setup.sh puts it.
fn bandwidth() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap();
    let path = cache.join("selvedge/bin/cni-bandwidth");
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// Calls it for a pod, with `previous` as the result of the plugin before it.
fn chained(node: &Node, verb: &'static str, pod: &Pod, limits: &Value, previous: &Value) -> Said {
    let config = json!({
        "cniVersion": node.config["cniVersion"], "name": node.config["name"], "type": "bandwidth",
        "capabilities": {"bandwidth": true}, "runtimeConfig": {"bandwidth": limits}, "prevResult": previous,
    });
    let mut command = Command::new(bandwidth());
    command.env_clear().envs(pod.variables(verb)).env("CNI_PATH", "/opt/cni/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    said(child)
}

/// How long `from` takes to send [`BYTES`] to `address` in `to`.
fn transfer(from: &NetNs, to: &NetNs, address: IpAddr) -> Duration {
    let listener = to.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let receiver = std::thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        std::io::copy(&mut std::io::Read::take(&stream, BYTES as u64), &mut std::io::sink()).unwrap()
    });
    let begun = Instant::now();
    let mut stream = from.run(|| TcpStream::connect(target)).unwrap().unwrap();
    stream.write_all(&vec![7; BYTES]).unwrap();
    drop(stream);
    assert_eq!(receiver.join().unwrap(), BYTES as u64);
    begun.elapsed()
}

in_both!(bandwidth_limits_what_a_pod_gets, |mut node: Node| {
    let limits = json!({"ingressRate": RATE, "ingressBurst": BURST});
    // What cannot be faster: all but the burst, at the rate.
    let least = Duration::from_millis((BYTES as u64 * 8 - BURST) * 1000 / RATE);
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        node.config["cniVersion"] = json!(version);
        let (pod, other) = (node.add(&format!("pod-{version}")), node.add(&format!("other-{version}")));
        let free = transfer(&other.netns, &pod.netns, pod.address(false));
        let added = chained(&node, "ADD", &pod, &limits, &pod.result);
        assert!(added.success, "{version}: {added:?}");
        assert_eq!(
            (&added.output["ips"], &added.output["cniVersion"]),
            (&pod.result["ips"], &json!(version))
        );
        // The whole list's result is what CHECK and DEL get of both.
        let checked = chained(&node, "CHECK", &pod, &limits, &added.output);
        assert!(checked.success, "{version}: {checked:?}");
        let pod = Pod { result: added.output, ..pod };
        assert!(node.check(&pod).success, "{version}: {:?}", node.check(&pod));
        if version == "1.1.0" {
            for ipv6 in [false, true] {
                let limited = transfer(&other.netns, &pod.netns, pod.address(ipv6));
                assert!(
                    limited >= least && limited > free,
                    "{limited:?}, at least {least:?}, before {free:?}"
                );
                println!("{BYTES} bytes to a pod: {free:?} before, {limited:?} with a limit, IPv6 {ipv6}");
            }
        }
        // DEL in the reverse order.
        assert!(chained(&node, "DEL", &pod, &limits, &pod.result).success);
        node.del(&pod);
        node.del(&other);
    }
    crate::verbs::nothing_left(&node);
});

/// A pod with a limit of what it sends: its packets come back to its port from the limit's device, past the ingress hook.
fn limited(node: &Node, name: &str) -> Pod {
    let pod = node.add(name);
    let limits = json!({"egressRate": RATE, "egressBurst": BURST});
    let added = chained(node, "ADD", &pod, &limits, &pod.result);
    assert!(added.success, "{added:?}");
    pod
}

in_both!(an_egress_limit_lets_no_forged_frame_pass, |node: Node| {
    let is_bridged = node.info.datapath == Datapath::Bridge;
    let (pod, victim) = (limited(&node, "pod"), node.add("victim"));
    let cast = Cast::new(&node, &pod, &victim);
    let out = Wire::open(&pod.netns, "eth0").unwrap();
    let seen = Wire::open(&victim.netns, "eth0").unwrap();
    // What the node's IP stack is handed. Without a bridge no device shows that.
    let stack = is_bridged.then(|| Wire::open(&NetNs::current().unwrap(), "selvedge-br").unwrap());
    let honest = cast.honest();
    for (number, (counter, frame)) in cast.forged().into_iter().enumerate() {
        // Without a bridge nothing on the node takes other Ethernet types.
        if !is_bridged && counter == "other-ethertype" {
            continue;
        }
        let before = count(counter);
        out.send(&frame).unwrap();
        out.send(&honest).unwrap();
        // They arrive in order.
        stack.iter().chain([&seen]).for_each(only_honest);
        assert_eq!(count(counter), before + 1, "frame {number} is not in {counter}: {frame:x?}");
    }
    for ipv6 in [false, true] {
        assert_eq!(tcp(&pod.netns, &victim.netns, victim.address(ipv6)), pod.address(ipv6));
    }
});

// The bridge hands frames to reserved group addresses to the IP stack as the port's own, past its own hooks (IEEE 802.1D).
in_both!(an_egress_limit_opens_no_reserved_address, |node: Node| {
    let (pod, victim) = (limited(&node, "pod"), node.add("victim"));
    let cast = Cast::new(&node, &pod, &victim);
    let out = Wire::open(&pod.netns, "eth0").unwrap();
    let fabric = node.info.fabric(false).unwrap();
    let socket = UdpSocket::bind((fabric, 0)).unwrap();
    socket.set_read_timeout(Some(soon() - Instant::now())).unwrap();
    for last in [0x03, 0x0e] {
        for (source, text) in [(victim.address(false), FORGED), (pod.address(false), HONEST)] {
            let packet = packet::udp(source, fabric, [7, socket.local_addr().unwrap().port()], text);
            // Without a bridge it is an address like any other, and what is honest passes.
            let reserved = [0x01, 0x80, 0xc2, 0, 0, last];
            let to = if text == HONEST { BRIDGE_MAC.0 } else { reserved };
            out.send(&packet::ethernet(to, cast.own.0.0, packet::IPV4, &packet)).unwrap();
        }
        let mut datagram = [0; 64];
        let length = socket.recv(&mut datagram).expect("the honest datagram did not arrive");
        assert_eq!(&datagram[..length], HONEST, "a forged datagram to address {last:#x} passed");
    }
});

in_both!(what_a_pod_may_send_arrives_at_the_limits_rate, |node: Node| {
    let (pod, other) = (limited(&node, "pod"), node.add("other"));
    let least = Duration::from_millis((BYTES as u64 * 8 - BURST) * 1000 / RATE);
    for ipv6 in [false, true] {
        let taken = transfer(&pod.netns, &other.netns, other.address(ipv6));
        assert!(taken >= least, "{taken:?}, at least {least:?}");
        println!("{BYTES} bytes from a limited pod: {taken:?}, IPv6 {ipv6}");
    }
    // Everything goes with the pod.
    for pod in [&pod, &other] {
        let _ = chained(&node, "DEL", pod, &json!({"egressRate": RATE, "egressBurst": BURST}), &pod.result);
        node.del(pod);
    }
    crate::verbs::nothing_left(&node);
});
