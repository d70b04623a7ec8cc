//! The tools measured on networks whose behaviour is known.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use selvedge::kernel::netns::NetNs;

use super::{Canary, Ping, Probe, Server, ask, ask_udp, download, path_mtu, probe, throughput, upload};
use crate::plan::{Cable, Families, Plan};
use crate::underlay::Underlay;

/// A node and the internet, with the router between.
struct Net {
    node: NetNs,
    internet: NetNs,
    cables: [Cable; 2],
    underlay: Underlay,
    runtime: tokio::runtime::Runtime,
}

fn net() -> Net {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let plan = Plan::new(Families::Dual, 1);
    let cables = [plan.node_plans().remove(0).cable, plan.internet()];
    let (node, internet) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    let underlay = runtime.block_on(async {
        let underlay = Underlay::create().await.unwrap();
        for (cable, host) in cables.iter().zip([&node, &internet]) {
            underlay.lay(cable).await.unwrap();
            underlay.plug(cable, host).await.unwrap();
        }
        underlay
    });
    let net = Net { node, internet, cables, underlay, runtime };
    // Until the first packet of each family has come through, addresses are still being resolved.
    for to in net.cables[1].addresses() {
        let ping = Ping::start(&net.node, to, Duration::from_millis(10), &canary()).unwrap();
        crate::process::wait_for("the first reply", Duration::from_secs(10), || ping.received() > 0).unwrap();
    }
    net
}

fn canary() -> Canary {
    Canary::random().unwrap()
}

fn ends(net: &Net, port: u16) -> Vec<(IpAddr, SocketAddr)> {
    let to = net.cables[1].addresses().into_iter().map(|address| SocketAddr::new(address, port));
    net.cables[0].addresses().into_iter().zip(to).collect()
}

#[test]
fn servers_tell_the_source_and_hashes_agree() {
    crate::isolated!(|| {
        let (net, canary) = (net(), canary());
        let server = Server::start(&net.internet, "outside", &[8080, 0], &canary).unwrap();
        assert_eq!(server.ports()[0], 8080);
        for (own, to) in ends(&net, 8080) {
            let told = ask(&net.node, to, &canary).unwrap().told;
            assert_eq!((told.name.as_str(), told.source.ip()), ("outside", own));
            let told = ask_udp(&net.node, to, &canary, super::TIMEOUT).unwrap().told;
            assert_eq!((told.name.as_str(), told.source.ip()), ("outside", own));
            let mut pauses = 0;
            for bulk in [
                upload(&net.node, to, 30_000_001, &canary, &mut || pauses += 1),
                download(&net.node, to, 30_000_001, &canary, &mut || pauses += 1),
            ] {
                let bulk = bulk.unwrap();
                assert_eq!((bulk.bytes, bulk.sent), (30_000_001, bulk.received));
            }
            assert_eq!(pauses, 2);
            let rate = throughput(&net.node, to, Duration::from_millis(200), Some(1300), &mut || pauses += 1);
            let rate = rate.unwrap();
            assert!(rate.bits_per_second() > 1e6 && pauses > 2, "{rate}");
        }
        drop(server);
        let refused = ask(&net.node, ends(&net, 8080)[0].1, &canary).unwrap_err();
        assert!(!refused.is_silence(), "a closed port is refused: {refused}");
    });
}

#[test]
fn a_ping_counts_what_is_lost_and_how_long() {
    crate::isolated!(|| {
        let (net, canary) = (net(), canary());
        for to in net.cables[1].addresses() {
            let ping = Ping::start(&net.node, to, Duration::from_millis(1), &canary).unwrap();
            crate::process::wait_for("200 replies", Duration::from_secs(10), || ping.received() > 200)
                .unwrap();
            let report = ping.stop();
            assert_eq!((report.lost(), report.duplicates, report.refused), (0, 0, 0), "{report:?}");
            let quick = report.longest_gap < Duration::from_millis(500);
            assert!(report.sent > 200 && report.round_trip.is_some() && quick, "{report:?}");

            let ping = Ping::start(&net.node, to, Duration::from_millis(1), &canary).unwrap();
            crate::process::wait_for("a reply", Duration::from_secs(10), || ping.received() > 20).unwrap();
            net.runtime.block_on(net.underlay.unplug(&net.cables[1], &net.internet)).unwrap();
            std::thread::sleep(Duration::from_millis(700));
            net.runtime.block_on(net.underlay.plug(&net.cables[1], &net.internet)).unwrap();
            let before = ping.received();
            crate::process::wait_for("it to be back", Duration::from_secs(10), || {
                ping.received() > before + 20
            })
            .unwrap();
            let report = ping.stop();
            assert!(report.lost() >= 300 && report.longest_gap >= Duration::from_millis(700), "{report:?}");
        }
    });
}

#[test]
fn probes_tell_whole_fragmented_and_too_big_apart() {
    crate::isolated!(|| {
        let (net, canary) = (net(), canary());
        let _server = Server::start(&net.internet, "outside", &[7], &canary).unwrap();
        for (_, to) in ends(&net, 7) {
            let sent = |size, whole| probe(&net.node, to, size, whole, &canary, 3).unwrap();
            assert_eq!(sent(1400, true), Probe::Echoed, "{to}");
            assert_eq!(path_mtu(&net.node, to).unwrap(), 1500, "{to}");
            // Too big for the cable behind the router, which says so; then the kernel knows.
            assert_eq!(sent(1401, true), Probe::TooBig(1400), "{to}");
            assert_eq!(path_mtu(&net.node, to).unwrap(), 1400, "{to}");
            assert_eq!(sent(1501, true), Probe::TooBig(1400), "{to}");
            assert_eq!(sent(9000, false), Probe::Echoed, "{to}");
            let nobody = SocketAddr::new(to.ip(), 9);
            assert!(probe(&net.node, nobody, 100, true, &canary, 1).is_err(), "refused");
        }
    });
}
