//! `selvedge uninstall --node`: takes off this node what Selvedge put there.
//!
//! The guard goes last, and only when everything else is gone: nothing may leak in between.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::super::{Exit, Failure, print};
use super::Args;
use crate::config::{Config, Overrides};
use crate::kernel::link::{self, Id};
use crate::kernel::netlink::Netlink;
use crate::kernel::nft::{self, Family};
use crate::kernel::route::Route;
use crate::kernel::rule::Rule;
use crate::kernel::{LINK_GROUP, iptables};
use crate::paths::Paths;
use crate::pod::{hostport, install, spoof};
use crate::{egress, forwarding, guard, service};

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let paths = Paths::from_env();
    super::super::block_on(async {
        let netlink = Netlink::new().context("cannot look at this node's devices")?;
        let steps = plan(&netlink, &paths, args.purge).await?;
        if steps.is_empty() {
            print("nothing of Selvedge is left on this node\n")?;
            return Ok(Exit::Ok);
        }
        if !args.yes {
            let list: String = steps.iter().map(|step| format!("would remove {step}\n")).collect();
            print(&(list + "nothing was changed; run it again with --yes to remove all this\n"))?;
            return Ok(Exit::Findings);
        }
        refuse_while_running(&paths)?;
        remove_all(&netlink, steps).await
    })
}

/// One thing to remove.
#[derive(Debug)]
enum Step {
    File(&'static str, PathBuf),
    /// Whose plugins are chained in it. Without ours the list makes no interface, and runtimes would still take it first.
    Conflist(PathBuf, Vec<String>),
    Folder(&'static str, PathBuf),
    Link(String),
    Rule(Rule),
    Route(Route),
    Table(Family, &'static str),
    /// Rules of ours in tables of iptables.
    ForwardRules(BTreeSet<String>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(what, path) | Self::Folder(what, path) => write!(f, "{what} {}", path.display()),
            Self::Conflist(path, chained) => {
                write!(f, "CNI configuration {}", path.display())?;
                if chained.is_empty() {
                    Ok(())
                } else {
                    write!(f, " with the chained {}", chained.join(", "))
                }
            }
            Self::Link(name) => write!(f, "network device {name}"),
            Self::Rule(rule) => write!(f, "routing rule {rule}"),
            Self::Route(route) => write!(f, "route {route}"),
            Self::Table(family, name) => write!(f, "nftables table {family} {name}"),
            Self::ForwardRules(chains) => {
                let chains: Vec<&str> = chains.iter().map(String::as_str).collect();
                write!(f, "rules for pods in {}", chains.join(" and "))
            }
        }
    }
}

impl Step {
    async fn run(&self, netlink: &Netlink) -> anyhow::Result<()> {
        match self {
            Self::File(_, path) | Self::Conflist(path, _) => absent_is_fine(std::fs::remove_file(path))?,
            Self::Folder(_, path) => remove_folder(path)?,
            Self::Link(name) => netlink.apply([link::delete(Id::Name(name))]).await?,
            Self::Rule(rule) => netlink.apply([rule.delete()]).await?,
            Self::Route(route) => netlink.apply([route.delete()]).await?,
            Self::Table(family, name) => drop(nft::delete(*family, name)?),
            Self::ForwardRules(_) => drop(forwarding::ensure(&[])?),
        }
        Ok(())
    }
}

/// A folder that is a mount point cannot go: it is as good as gone once nothing is in it.
fn remove_folder(path: &Path) -> io::Result<()> {
    match absent_is_fine(std::fs::remove_dir_all(path)) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) && is_empty(path) => Ok(()),
        result => result,
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether something is mounted at `path`: field 5 of proc_pid_mountinfo(5), where spaces and the like are octal.
fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let escaped = |byte: u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        plain => vec![plain],
    };
    let wanted: Vec<u8> =
        path.as_os_str().as_encoded_bytes().iter().flat_map(|byte| escaped(*byte)).collect();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| point.as_bytes() == wanted))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What is there to remove, in the order in which it goes.
async fn plan(netlink: &Netlink, paths: &Paths, purge: bool) -> anyhow::Result<Vec<Step>> {
    let mut steps = files(paths, purge);
    let links = netlink.links().await?.into_iter().filter(|link| link.group == LINK_GROUP);
    steps.extend(links.map(|link| Step::Link(link.name)));
    steps.extend(netlink.rules().await?.into_iter().map(Step::Rule));
    steps.extend(netlink.routes().await?.into_iter().map(Step::Route));
    let tables = [
        (Family::Inet, hostport::TABLE),
        (Family::Inet, egress::TABLE),
        (Family::Inet, service::table::TABLE),
        (Family::Netdev, spoof::TABLE),
        (Family::Bridge, spoof::TABLE),
        (Family::Inet, spoof::TABLE),
        (Family::Arp, spoof::TABLE),
        (Family::Inet, guard::TABLE),
    ];
    let kept = forwarding::kept()?.into_iter();
    let chains: BTreeSet<String> = kept
        .map(|(family, chain, _)| format!("chain {chain} of table {family} {}", iptables::FILTER))
        .collect();
    if !chains.is_empty() {
        steps.push(Step::ForwardRules(chains));
    }
    for (family, name) in tables {
        if nft::tables(family)?.contains(name) {
            steps.push(Step::Table(family, name));
        }
    }
    Ok(steps)
}

/// Files first: without configuration the runtime starts no more pods. The plugin's program stays, because the
/// runtime needs it to delete the pods that there are, unless everything goes.
fn files(paths: &Paths, purge: bool) -> Vec<Step> {
    let (programs, configurations) = cni_folders(paths);
    let conflist = configurations.join(install::CONFLIST);
    let chained = install::chained(&conflist);
    let mut steps = vec![Step::Conflist(conflist, chained), Step::Folder("runtime state", paths.run.clone())];
    if purge {
        steps.push(Step::File("CNI plugin", programs.join(install::PLUGIN)));
        steps.push(Step::Folder("keys and records", paths.state.clone()));
    }
    steps.retain(|step| match step {
        Step::File(_, path) | Step::Conflist(path, _) => path.symlink_metadata().is_ok(),
        Step::Folder(_, path) => path.symlink_metadata().is_ok() && !(is_empty(path) && is_mount_point(path)),
        _ => true,
    });
    steps
}

/// As configured; the usual ones when there is no valid configuration any more.
fn cni_folders(paths: &Paths) -> (PathBuf, PathBuf) {
    let overrides = Overrides::from_env();
    let (bin, conf) = (overrides.cni_bin_dir.clone(), overrides.cni_conf_dir.clone());
    match Config::load(&paths.config, &overrides) {
        Ok(config) => (config.cni.bin_dir, config.cni.conf_dir),
        Err(_) => {
            (bin.unwrap_or_else(|| "/opt/cni/bin".into()), conf.unwrap_or_else(|| "/etc/cni/net.d".into()))
        }
    }
}

/// A running agent or tunnel would put back what is removed.
fn refuse_while_running(paths: &Paths) -> Result<(), Failure> {
    let mut sockets = vec![paths.agent_socket()];
    let entries = std::fs::read_dir(&paths.run).into_iter().flatten().flatten();
    let is_tunnel = |name: &str| name.starts_with("tunnel-") && name.ends_with(".sock");
    let tunnels = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_tunnel));
    sockets.extend(tunnels.map(|entry| entry.path()));
    match sockets.into_iter().find(|socket| UnixStream::connect(socket).is_ok()) {
        Some(socket) => Err(Failure::new(
            Exit::Failed,
            anyhow!(
                "a process of Selvedge still answers on {}: stop the agent and the tunnel of this node first",
                socket.display()
            ),
        )),
        None => Ok(()),
    }
}

/// Goes on after errors; but the guard goes only when there was none.
async fn remove_all(netlink: &Netlink, steps: Vec<Step>) -> Result<Exit, Failure> {
    let mut failed = 0;
    for step in steps {
        if failed > 0 && matches!(step, Step::Table(_, guard::TABLE)) {
            say(&format!("kept {step}: it goes last, when all else is gone"));
            continue;
        }
        match step.run(netlink).await {
            Ok(()) => say(&format!("removed {step}")),
            Err(error) => {
                failed += 1;
                say(&format!("FAILED to remove {step}: {error:#}"));
            }
        }
    }
    match failed {
        0 => Ok(Exit::Ok),
        _ => {
            Err(anyhow!("{failed} things could not be removed; run it again after dealing with them").into())
        }
    }
}

/// A closed standard output is no reason to leave a node half clean.
fn say(line: &str) {
    let _ = print(&format!("{line}\n"));
}
