//! A node with a CNI plugin, which is called as a runtime calls it.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge::paths::Paths;
use selvedge::pod::NodeInfo;
use selvedge::pod::node::Datapath;
use serde_json::{Value, json};

use super::{Options, bridge_configuration, write};
use crate::error::{Doing as _, Error};
use crate::space::{DISK, Space};

pub(super) struct Node {
    space: Space,
    /// The program.
    program: PathBuf,
    /// Where it finds others that it calls.
    path: PathBuf,
    /// What it gets on standard input.
    configuration: String,
}

impl Node {
    /// Selvedge's, on a node that its agent has prepared.
    pub(super) fn selvedge(options: &Options) -> Result<Self, Error> {
        let disk = options.folder.join("selvedge");
        let here = Paths { state: disk.join("state"), ..Paths::default() };
        let state = Path::new(DISK).join("state");
        let info = node_info().save(&here);
        info.doing("write node.json")?;
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "selvedge", "stateDir": state,
        });
        Self::new("selvedge", &disk, &options.selvedge, &configuration)
    }

    /// The CNI project's.
    pub(super) fn bridge(options: &Options) -> Result<Self, Error> {
        let configuration = bridge_configuration(&Path::new(DISK).join("networks"));
        Self::new("bridge", &options.folder.join("bridge"), &options.plugins.join("bridge"), &configuration)
    }

    fn new(name: &str, disk: &Path, program: &Path, configuration: &Value) -> Result<Self, Error> {
        write(&disk.join("configuration.json"), &configuration.to_string())?;
        let space = Space::create(name, disk).doing(format!("make the node of {name}"))?;
        let path = program.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        Ok(Self { space, program: program.to_owned(), path, configuration: configuration.to_string() })
    }

    /// Makes the network namespaces of that many pods.
    pub(super) fn make_pods(&self, pods: usize) -> Result<(), Error> {
        let make = || (0..pods).try_for_each(|pod| NetNs::create_named(netns(pod)).map(drop));
        self.space.run(make).doing("enter a node")?.doing("make a pod's namespace")
    }

    /// How long the plugin's process takes for a verb. It starts in the node already, so that entering it costs nothing.
    pub(super) fn call(&self, verb: &str, pod: usize) -> Result<Duration, Error> {
        let what = format!("{verb} of pod {pod} by {}", self.program.display());
        self.space.run(|| self.time(verb, pod)).doing(&what)?.doing(&what)
    }

    fn time(&self, verb: &str, pod: usize) -> std::io::Result<Duration> {
        let mut command = Command::new(&self.program);
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_PATH", &self.path);
        command.env("CNI_CONTAINERID", format!("pod{pod}")).env("CNI_NETNS", netns(pod));
        command.env("CNI_IFNAME", "eth0").env("CNI_ARGS", "IgnoreUnknown=1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.configuration.as_bytes())?;
        }
        let mut said = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut said)?;
        }
        let status = child.wait()?;
        let took = begun.elapsed();
        match status.success() {
            true => Ok(took),
            false => Err(std::io::Error::other(format!("{status}: {said}"))),
        }
    }
}

fn netns(pod: usize) -> String {
    format!("/run/netns/pod{pod}")
}

/// As the agent writes it.
fn node_info() -> NodeInfo {
    let nets = |list: &[&str]| list.iter().filter_map(|net| net.parse().ok()).collect();
    NodeInfo {
        node_name: "bench".into(),
        node_uid: "bench".into(),
        pod_cidrs: nets(&["10.244.1.0/24", "fd00:10:244:1::/64"]),
        cluster_pod_cidrs: nets(&["10.244.0.0/16", "fd00:10:244::/48"]),
        service_cidrs: nets(&["10.96.0.0/16", "fd00:10:96::/108"]),
        trusted_sources: Vec::new(),
        mtu: crate::plan::POD_MTU,
        datapath: Datapath::Bridge,
        tunnel_port: Some(51830),
    }
}
