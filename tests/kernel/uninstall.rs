//! `selvedge uninstall --node`.

use std::path::Path;
use std::process::{Command, Output};

use selvedge::kernel::LINK_GROUP;
use selvedge::kernel::iptables::{FILTER, FORWARD};
use selvedge::kernel::link::{Bridge, End, Veth};
use selvedge::kernel::mac::Mac;
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::nft::{Chain, ChainKind, Family, Hook, Rule as Rules, Table, apply, read, tables};
use selvedge::kernel::route::Route;
use selvedge::kernel::rule::Rule;
use selvedge::pod::spoof;
use selvedge::{egress, forwarding, guard};
use selvedge_lab::isolated;

use crate::node::{egress_config, guard_config};

fn uninstall(folder: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["uninstall", "--node"])
        .args(options)
        .env("SELVEDGE_CONFIG", folder.join("config.toml"))
        .env("SELVEDGE_STATE_DIR", folder.join("state"))
        .env("SELVEDGE_RUN_DIR", folder.join("run"))
        .env("SELVEDGE_CNI_BIN_DIR", folder.join("bin"))
        .env("SELVEDGE_CNI_CONF_DIR", folder.join("conf"))
        .output()
        .unwrap()
}

/// A node with one of everything, and something of a stranger's beside each.
async fn install(netlink: &Netlink, folder: &Path) {
    for name in ["state", "run", "bin", "conf"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("state/key"), "").unwrap();
    std::fs::write(folder.join("bin/selvedge"), "").unwrap();
    let conflist = r#"{"plugins": [{"type": "selvedge"}, {"type": "bandwidth"}, {"type": "tuning"}]}"#;
    std::fs::write(folder.join("conf/10-selvedge.conflist"), conflist).unwrap();
    std::fs::write(folder.join("conf/99-stranger.conflist"), "").unwrap();
    let bridge = |name, group| Bridge { name, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1400, group }.create();
    let end = |name| End { name, mac: None, mtu: 1400, group: LINK_GROUP };
    let port = Veth { end: end("slv0123456789a"), peer: end("peer"), peer_ns: None }.create();
    let pods: ipnet::IpNet = "10.244.0.0/16".parse().unwrap();
    let changes = [
        bridge("selvedge-br", LINK_GROUP),
        bridge("stranger", 0),
        port,
        Route::unreachable(pods).replace(),
        Rule::from_source(pods, 5183, 51830).add(),
    ];
    netlink.apply(changes).await.unwrap();
    let mut ports = Table::new(Family::Netdev, "selvedge-ports");
    ports.chain("lo", Chain::ingress("lo", 0, vec![]));
    let stranger = Table::new(Family::Inet, "stranger");
    apply(&[guard::table(&guard_config()), egress::table(&egress_config()), ports, stranger, iptables()])
        .unwrap();
    apply(&spoof::FAMILIES.map(spoof::empty)).unwrap();
    assert_eq!(forwarding::ensure(&guard_config().cluster_pod_cidrs).unwrap().0.len(), 2);
}

/// Runs `body` on an installed node, in the namespaces of the caller, with the folder that has the node's files.
fn on_installed_node(body: impl AsyncFnOnce(&Path, &Netlink)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let netlink = Netlink::new().unwrap();
        install(&netlink, folder.path()).await;
        body(folder.path(), &netlink).await;
    });
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The node was uninstalled, its guard last.
fn removed(done: &Output) {
    assert!(done.status.success(), "{done:?}");
    let text = printed(done);
    assert!(text.trim_end().ends_with("removed nftables table inet selvedge-guard"), "{text}");
}

/// A table of iptables, with a rule of its owner.
fn iptables() -> Table {
    let mut table = Table::new(Family::Ipv4, FILTER);
    let rules = vec![Rules::new().iif_name("docker0").counted().accept()];
    table.chain(FORWARD, Chain::base(ChainKind::Filter, Hook::Forward, 0, rules));
    table
}

#[test]
fn it_removes_ours_alone_and_twice_is_fine() {
    isolated!(|| {
        on_installed_node(async |folder, netlink| {
            let dry = uninstall(folder, &[]);
            assert_eq!(dry.status.code(), Some(3), "{dry:?}");
            for expected in [
                "would remove nftables table inet selvedge-guard",
                "would remove rules for pods in chain FORWARD of table ip filter",
                "conf/10-selvedge.conflist with the chained bandwidth, tuning\n",
            ] {
                assert!(printed(&dry).contains(expected), "{expected}: {dry:?}");
            }
            assert_eq!(tables(Family::Inet).unwrap().len(), 4);

            let agent = std::os::unix::net::UnixListener::bind(folder.join("run/agent.sock")).unwrap();
            let refused = uninstall(folder, &["--yes"]);
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            assert!(String::from_utf8_lossy(&refused.stderr).contains("stop the agent"), "{refused:?}");
            drop(agent);

            removed(&uninstall(folder, &["--yes"]));
            let links: Vec<_> = netlink.links().await.unwrap().into_iter().map(|link| link.name).collect();
            assert_eq!(links, ["lo", "stranger"]);
            assert_eq!((netlink.routes().await.unwrap(), netlink.rules().await.unwrap()), (vec![], vec![]));
            assert_eq!(tables(Family::Inet).unwrap().into_iter().collect::<Vec<_>>(), ["stranger"]);
            for family in [Family::Netdev, Family::Bridge, Family::Arp] {
                assert!(tables(family).unwrap().is_empty(), "{family}");
            }
            assert_eq!(read(Family::Ipv4, FILTER).unwrap().unwrap().table, iptables());
            for (path, stays) in [
                ("state/key", true),
                ("bin/selvedge", true),
                ("run", false),
                ("conf/10-selvedge.conflist", false),
                ("conf/99-stranger.conflist", true),
            ] {
                assert_eq!(folder.join(path).exists(), stays, "{path}");
            }

            let again = uninstall(folder, &["--yes"]);
            assert!(again.status.success(), "{again:?}");
            assert!(printed(&again).contains("nothing of Selvedge is left"));
            assert!(uninstall(folder, &["--yes", "--purge"]).status.success());
            assert!(!folder.join("state").exists() && !folder.join("bin/selvedge").exists());
        });
    });
}

/// As in a container, to which the node's folders are mounted one by one.
#[test]
fn a_folder_that_is_a_mount_point_is_emptied() {
    isolated!(|| {
        on_installed_node(async |folder, _| {
            let mounted = ["run", "state"].map(|name| folder.join(name));
            for path in &mounted {
                let bind = nix::mount::MsFlags::MS_BIND;
                nix::mount::mount(Some(path), path, None::<&str>, bind, None::<&str>).unwrap();
            }
            std::fs::create_dir(folder.join("run/leases")).unwrap();
            std::fs::write(folder.join("run/leases/10.244.0.2"), "").unwrap();
            removed(&uninstall(folder, &["--yes", "--purge"]));
            for path in &mounted {
                assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "{}", path.display());
            }
            let again = uninstall(folder, &["--purge"]);
            assert!(printed(&again).contains("nothing of Selvedge is left"), "{again:?}");

            // What is mounted further down is somebody else's, and stays.
            std::fs::create_dir(folder.join("run/other")).unwrap();
            let tmpfs = Some("tmpfs");
            nix::mount::mount(
                tmpfs,
                &folder.join("run/other"),
                tmpfs,
                nix::mount::MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
            let failed = uninstall(folder, &["--yes"]);
            assert_eq!(failed.status.code(), Some(1), "{failed:?}");
            for path in ["run/other", "run", "state"] {
                nix::mount::umount2(&folder.join(path), nix::mount::MntFlags::MNT_DETACH).unwrap();
            }
        });
    });
}
