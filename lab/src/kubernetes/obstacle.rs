//! What is put in the way between the agent of a node and the API server. The kubelet shares its fate.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{Kubernetes, nth};
use crate::error::{Doing as _, Error};
use crate::space::Space;

/// Port of the Service.
const PORT: u16 = 443;
const TABLE: &str = "lab-obstacle";

/// What becomes of packets between an agent and the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// So many a second pass, in each direction; the others are lost.
    Slow(u32),
    /// None passes, and nobody says so.
    Silent,
    /// Connections are aborted, with resets to both sides, and new ones refused.
    Cut,
}

/// An obstacle, which is gone when this is dropped.
pub struct Obstructed {
    space: Arc<Space>,
}

impl Kubernetes {
    /// Puts `obstacle` in the way of the agent of `node`.
    pub fn obstruct(&self, node: &str, obstacle: Obstacle) -> Result<Obstructed, Error> {
        let what = format!("put an obstacle between {node} and the API server");
        let space = self.node_space(node).cloned().ok_or_else(|| Error::new(&what, "no such node".into()))?;
        let obstructed = Obstructed { space };
        obstructed.nft(&rules(obstacle, &self.servers())).doing(&what)?;
        if obstacle == Obstacle::Cut {
            self.abort_connections(node)?;
        }
        Ok(obstructed)
    }

    /// Aborts the connections of a node's agent to the API server, once.
    pub fn abort_connections(&self, node: &str) -> Result<(), Error> {
        for server in self.servers() {
            let (address, port) = (server.ip().to_string(), format!(":{}", server.port()));
            self.on_node(node, "ss", &["--kill", "--tcp", "dst", &address, "dport", "=", &port])?;
        }
        Ok(())
    }

    /// Runs a program in the namespaces of a node; gives what it prints.
    fn on_node(&self, node: &str, program: &str, args: &[&str]) -> Result<String, Error> {
        let space = self.node_space(node).ok_or_else(|| Error::new(program, format!("no node {node}")))?;
        self.within(space, program, args)
    }

    /// The same in any namespaces.
    pub(super) fn within(&self, space: &Space, program: &str, args: &[&str]) -> Result<String, Error> {
        let what = format!("{program} {}", args.join(" "));
        let output = space.place(Command::new(program).args(args)).output().doing(&what)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Error::new(what, String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// Where agents find the API server: at its own address, and before they know that by its Service.
    fn servers(&self) -> Vec<SocketAddr> {
        let own = self.api_url().trim_start_matches("https://").parse().ok();
        let ranges = self.world().plan().service_cidrs().into_iter().take(1);
        let service = ranges.map(|range| SocketAddr::new(nth(range, 1), PORT));
        service.filter(|_| self.is_kube_proxy_everywhere()).chain(own).collect()
    }
}

impl Obstructed {
    fn nft(&self, script: &str) -> std::io::Result<()> {
        let mut command = Command::new("nft");
        command.args(["--file", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.space.place(&mut command).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }
}

impl Drop for Obstructed {
    fn drop(&mut self) {
        if let Err(error) = self.nft(&format!("delete table inet {TABLE}\n")) {
            tracing::error!(%error, "an obstacle stays in the way");
        }
    }
}

/// Before the Service's address is translated on the way out, and after it is translated back.
fn rules(obstacle: Obstacle, servers: &[SocketAddr]) -> String {
    let (out, back) = match obstacle {
        Obstacle::Slow(rate) => {
            let rule = format!("limit rate over {rate}/second burst {rate} packets drop");
            (rule.clone(), rule)
        }
        Obstacle::Silent => ("drop".into(), "drop".into()),
        Obstacle::Cut => ("reject with tcp reset".into(), "accept".into()),
    };
    let rule = |way: &str, port: &str, verdict: &str| -> String {
        let of_server = |server: &SocketAddr| {
            let ip = if server.is_ipv6() { "ip6" } else { "ip" };
            format!("    {ip} {way} {} tcp {port} {} {verdict}\n", server.ip(), server.port())
        };
        servers.iter().map(of_server).collect()
    };
    format!(
        "table inet {TABLE} {{\n  chain out {{\n    type filter hook output priority -150;\n{}  }}\n  chain back {{\n    \
         type filter hook input priority 150;\n{}  }}\n}}\n",
        rule("daddr", "dport", &out),
        rule("saddr", "sport", &back)
    )
}
