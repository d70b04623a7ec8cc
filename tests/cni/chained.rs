//! A plugin that is chained behind ours: the CNI project's bandwidth plugin, run with our result as libcni does it.

use std::io::Write as _;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge::pod::gateway::BRIDGE_MAC;
use selvedge_lab::packet;
use selvedge_lab::wire::Wire;
use serde_json::{Value, json};

use crate::node::{Node, Pod, Said, in_both, said, soon};

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

// A limit of what a pod sends redirects its packets before nftables' ingress hook sees them (SECURITY.md, "Known windows").
in_both!(what_an_egress_limit_does_to_the_ports_rules, |node: Node| {
    let [pod, other, victim] = ["pod", "other", "victim"].map(|name| node.add(name));
    let forged_passes = |ipv6: bool| {
        let (out, seen) =
            (Wire::open(&pod.netns, "eth0").unwrap(), Wire::open(&other.netns, "eth0").unwrap());
        let mac = pod.ethernet_address().0;
        let kind = if ipv6 { packet::IPV6 } else { packet::IPV4 };
        for (from, text) in [(&victim, FORGED), (&pod, HONEST)] {
            let packet = packet::udp(from.address(ipv6), other.address(ipv6), [7, 7], text);
            out.send(&packet::ethernet(BRIDGE_MAC.0, mac, kind, &packet)).unwrap();
        }
        // They arrive in order.
        let mut forged = false;
        loop {
            let frame = seen.receive(soon()).unwrap().expect("the honest packet did not arrive");
            if frame.ends_with(HONEST) {
                return forged;
            }
            forged |= frame.ends_with(FORGED);
        }
    };
    assert!(!forged_passes(false) && !forged_passes(true), "a forged packet passed without a limit");
    let limits = json!({"egressRate": RATE, "egressBurst": BURST});
    let added = chained(&node, "ADD", &pod, &limits, &pod.result);
    assert!(added.success, "{added:?}");
    println!(
        "with an egress limit forged packets pass: IPv4 {}, IPv6 {}",
        forged_passes(false),
        forged_passes(true)
    );
});
