//! The MTU between the nodes shrinks and grows. The agents follow, and they and the doctor are of one opinion.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use selvedge::agent::status::AgentStatus;
use selvedge::kernel::link::{Id, Update, update};
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::sysctl;
use selvedge::local::Client;
use selvedge::pod::node::NodeInfo;
use selvedge_lab::isolated;
use selvedge_lab::lab::{Lab, Options, logs};
use selvedge_lab::node::Node;
use selvedge_lab::plan::Families;
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::{Probe, probe};
use selvedge_lab::underlay::DEVICE;
use tempfile::TempDir;

use crate::host::expect;
use crate::live::doctor;

const PATIENCE: Duration = Duration::from_secs(30);

fn cluster(families: Families) -> (Lab, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { families, ..Options::pair(folder.path(), env!("CARGO_BIN_EXE_selvedge")) };
    (Lab::start(options, &mut |_| {}).unwrap(), folder)
}

/// Gives every cable of a node this MTU, at both ends.
fn set_underlay(lab: &Lab, mtu: u32) {
    let set = async |netlink: Netlink, name: &str| {
        netlink
            .apply([update(Id::Name(name), &Update { mtu: Some(mtu), ..Update::default() })])
            .await
            .unwrap();
    };
    lab.runtime().block_on(async {
        for node in lab.nodes() {
            set(Netlink::in_ns(lab.underlay().router()).unwrap(), &node.cable().name).await;
            set(node.netlink().unwrap(), DEVICE).await;
        }
    });
}

fn status(node: &Node) -> Option<AgentStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = || runtime.block_on(Client::new("/run/selvedge/agent.sock".as_ref()).get("/v1/status")).ok();
    node.space().run(ask).unwrap()
}

fn tunnel_mtu(lab: &Lab, node: &Node) -> Option<u32> {
    let link = async { node.netlink().unwrap().link_named("selvedge0").await.unwrap() };
    lab.runtime().block_on(link).map(|link| link.mtu)
}

/// The MTU that a pod gets which is added now.
fn pods_mtu(node: &Node) -> Option<u32> {
    let file = std::fs::read(node.disk().join("state/node.json")).ok()?;
    serde_json::from_slice::<NodeInfo>(&file).ok().map(|info| info.mtu)
}

fn wait(lab: &Lab, what: &str, mut holds: impl FnMut(&Node) -> bool) {
    for node in lab.nodes() {
        if let Err(why) = wait_for(&format!("{what} on {}", node.name()), PATIENCE, || holds(node)) {
            let mtu = tunnel_mtu(lab, node);
            panic!("{why}; selvedge0 has {mtu:?}, status {:#?}\n{}", status(node), logs(node));
        }
    }
}

/// Every node gets its tunnel, its new pods and its readiness right, without a complaint of agent or doctor.
fn becomes_right(lab: &Lab, pods: u32) {
    wait(lab, &format!("MTU {pods} and readiness"), |node| {
        let well = status(node).is_some_and(|status| status.ready && status.problems.is_empty());
        well && tunnel_mtu(lab, node) == Some(pods) && pods_mtu(node) == Some(pods)
    });
    // What the change has set in motion may not be over yet.
    wait(lab, "a doctor without a complaint", |node| doctor(node, &["--offline"]).1 == 0);
    for node in lab.nodes() {
        let (report, _) = doctor(node, &["--offline"]);
        expect(&report, "mtu", &[("ok", &format!("eth0 has {}: pods get {pods}", pods + 80))]);
    }
}

/// Two new pods of different nodes reach each other with packets as large as they may be, and no larger.
fn pods_use_it(lab: &Lab, tag: &str, mtu: u32) {
    let pod = |end: &str, node| lab.create_pod(&format!("{end}-{tag}"), node, &[("main", 8080)]).unwrap();
    let (near, far) = (pod("near", "node1"), pod("far", "node2"));
    let whole = usize::try_from(mtu).unwrap();
    for address in far.1 {
        let sent =
            |size| probe(&near.0, SocketAddr::new(address, 8080), size, true, lab.canary(), 10).unwrap();
        assert_eq!((sent(whole), sent(whole + 1)), (Probe::Echoed, Probe::TooBig(mtu)), "{address}");
    }
}

/// Agent and doctor say the same of every node.
fn is_too_small(lab: &Lab, judgement: &str) {
    wait(lab, "a complaint", |node| {
        status(node).is_some_and(|status| status.problems.iter().any(|problem| problem.contains(judgement)))
    });
    for node in lab.nodes() {
        let (report, exit) = doctor(node, &["--offline"]);
        assert_eq!(exit, 3, "{report:#}");
        expect(&report, "mtu", &[("problem", judgement)]);
    }
}

#[test]
fn ipv4_works_on_a_small_underlay_and_becomes_right_when_it_grows() {
    isolated!(|| {
        let (lab, _folder) = cluster(Families::Ipv4);
        set_underlay(&lab, 1280);
        becomes_right(&lab, 1200);
        pods_use_it(&lab, "small", 1200);

        lab.reboot(1, false).unwrap();
        std::fs::remove_file(lab.nodes()[1].disk().join("state/node.json")).unwrap();
        lab.nodes()[1].resume();
        becomes_right(&lab, 1200);
        pods_use_it(&lab, "booted", 1200);

        set_underlay(&lab, 656);
        becomes_right(&lab, 576);
        pods_use_it(&lab, "least", 576);
        set_underlay(&lab, 655);
        is_too_small(&lab, "pods get 575, and IPv4 needs 576");

        set_underlay(&lab, 1500);
        becomes_right(&lab, 1420);
        pods_use_it(&lab, "grown", 1420);
        for (key, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_redirects", "0")] {
            let read = || sysctl::read(&format!("ipv6/conf/selvedge0/{key}")).unwrap();
            wait(&lab, key, |node| node.space().run(read).unwrap() == value);
        }
    });
}

#[test]
fn an_underlay_that_is_too_small_for_ipv6_is_named_and_becomes_right_when_it_grows() {
    isolated!(|| {
        let (lab, _folder) = cluster(Families::Dual);
        set_underlay(&lab, 1359);
        is_too_small(&lab, "pods get 1279, and IPv6 needs 1280");
        let has_ipv6 = |node: &Node| {
            let addresses = async { node.netlink().unwrap().addresses(None).await.unwrap() };
            let fabric = node.fabric_addresses().into_iter().find(IpAddr::is_ipv6).unwrap();
            lab.runtime().block_on(addresses).iter().any(|address| address.net.addr() == fabric)
        };
        assert!(lab.nodes().iter().all(|node| has_ipv6(node)), "IPv6 stays on the devices");
        set_underlay(&lab, 1360);
        becomes_right(&lab, 1280);
        pods_use_it(&lab, "least", 1280);
        set_underlay(&lab, 1500);
        becomes_right(&lab, 1420);
        pods_use_it(&lab, "grown", 1420);
    });
}
