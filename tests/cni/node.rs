//! A node whose namespace is the test's own, and its pods.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use selvedge::kernel::mac::Mac;
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::netns::NetNs;
use selvedge::paths::Paths;
use selvedge::pod::attachment::Attachment;
use selvedge::pod::node::{Datapath, NodeInfo, mark_ready};
use serde_json::{Value, json};

pub(crate) const NETWORK: &str = "pods";

pub(crate) struct Node {
    pub(crate) paths: Paths,
    pub(crate) info: NodeInfo,
    /// What a conflist would add to each call.
    pub(crate) config: Value,
}

/// What the plugin said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) success: bool,
    pub(crate) code: Option<i32>,
    pub(crate) output: Value,
}

pub(crate) struct Pod {
    pub(crate) attachment: Attachment,
    pub(crate) path: PathBuf,
    pub(crate) netns: NetNs,
    pub(crate) result: Value,
}

pub(crate) fn node() -> Node {
    node_with(&["10.244.1.0/24", "fd00:10:244:1::/64"])
}

/// A node whose pods are wired so.
pub(crate) fn node_in(datapath: Datapath) -> Node {
    let mut node = node();
    node.info.datapath = datapath;
    node.info.save(&node.paths).unwrap();
    node
}

/// A test of pods in either wiring, in namespaces of its own each time.
macro_rules! in_both {
    ($name:ident, $body:expr) => {
        mod $name {
            use super::*;
            use selvedge::pod::node::Datapath;

            #[test]
            fn bridge() {
                selvedge_lab::isolated!(|| ($body)(crate::node::node_in(Datapath::Bridge)));
            }

            #[test]
            fn routed() {
                selvedge_lab::isolated!(|| ($body)(crate::node::node_in(Datapath::Routed)));
            }
        }
    };
}
pub(crate) use in_both;

pub(crate) fn node_with(pod_cidrs: &[&str]) -> Node {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    let info = NodeInfo {
        node_name: "one".to_owned(),
        node_uid: "0-1".to_owned(),
        pod_cidrs: nets(pod_cidrs),
        cluster_pod_cidrs: nets(&["10.244.0.0/16", "fd00:10:244::/48"]),
        service_cidrs: nets(&["10.96.0.0/16", "fd00:10:96::/108"]),
        trusted_sources: vec![],
        mtu: 1420,
        datapath: Datapath::Bridge,
        tunnel_port: Some(51830),
    };
    let paths = Paths { state: "/run/state".into(), run: "/run/selvedge".into(), ..Paths::default() };
    info.save(&paths).unwrap();
    mark_ready(&paths).unwrap();
    let config = json!({
        "cniVersion": "1.1.0", "name": NETWORK, "type": "selvedge", "stateDir": "/run/state", "runDir": "/run/selvedge",
    });
    Node { paths, info, config }
}

impl Node {
    /// Runs the plugin with these variables and this input.
    pub(crate) fn run(&self, variables: &[(&str, &str)], input: &str) -> Said {
        said(self.start(variables, input))
    }

    /// The same in a user namespace that has no say in the network.
    pub(crate) fn run_without_rights(&self, variables: &[(&str, &str)], input: &str) -> Said {
        let mut command = command(variables);
        let unshare = || nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(std::io::Error::from);
        #[expect(unsafe_code, reason = "a namespace is entered between fork and exec")]
        // SAFETY: one system call, and no allocation.
        unsafe {
            command.pre_exec(unshare);
        }
        said(fed(command, input))
    }

    /// Starts the plugin and does not wait.
    #[expect(clippy::unused_self, reason = "only a node has a plugin")]
    pub(crate) fn start(&self, variables: &[(&str, &str)], input: &str) -> Child {
        fed(command(variables), input)
    }

    pub(crate) fn add(&self, name: &str) -> Pod {
        let pod = Pod::unconnected(name);
        self.connect(pod)
    }

    /// ADD for a pod that has a namespace only.
    pub(crate) fn connect(&self, pod: Pod) -> Pod {
        let said = self.call("ADD", &pod, &self.config);
        assert!(said.success, "ADD {}: {}", pod.attachment, said.output);
        Pod { result: said.output, ..pod }
    }

    pub(crate) fn del(&self, pod: &Pod) {
        let said = self.call("DEL", pod, &self.config);
        assert!(said.success, "DEL {}: {}", pod.attachment, said.output);
    }

    pub(crate) fn check(&self, pod: &Pod) -> Said {
        let mut config = self.config.clone();
        config["prevResult"] = pod.result.clone();
        self.call("CHECK", pod, &config)
    }

    pub(crate) fn call(&self, command: &'static str, pod: &Pod, config: &Value) -> Said {
        self.run(
            &pod.variables(command).each_ref().map(|(name, value)| (*name, value.as_str())),
            &config.to_string(),
        )
    }

    pub(crate) fn gc(&self, valid: &[&Pod]) -> Said {
        let mut config = self.config.clone();
        let list: Vec<&Attachment> = valid.iter().map(|pod| &pod.attachment).collect();
        config["cni.dev/valid-attachments"] = json!(list);
        self.run(&[("CNI_COMMAND", "GC")], &config.to_string())
    }

    /// Names of the leases' files.
    pub(crate) fn leases(&self) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(self.paths.leases()) else { return BTreeSet::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains('@')).collect()
    }
}

fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

fn fed(mut command: Command, input: &str) -> Child {
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child
}

pub(crate) fn said(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
    Said { success: output.status.success(), code: output.status.code(), output: value }
}

impl Pod {
    pub(crate) fn unconnected(name: &str) -> Self {
        let path = PathBuf::from(format!("/run/netns/{name}"));
        let netns = NetNs::create_named(&path).unwrap();
        Self { attachment: Attachment::new(name, "eth0").unwrap(), path, netns, result: Value::Null }
    }

    pub(crate) fn variables(&self, command: &'static str) -> [(&'static str, String); 4]
    where
        Self: Sized,
    {
        [
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", self.attachment.container.clone()),
            ("CNI_NETNS", self.path.display().to_string()),
            ("CNI_IFNAME", self.attachment.interface.clone()),
        ]
    }

    /// Addresses as ADD told them.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().unwrap();
        let address =
            |ip: &Value| ip["address"].as_str().unwrap().split_once('/').unwrap().0.parse().unwrap();
        ips.iter().map(address).collect()
    }

    pub(crate) fn address(&self, ipv6: bool) -> IpAddr {
        self.addresses().into_iter().find(|address| address.is_ipv6() == ipv6).unwrap()
    }

    pub(crate) fn port(&self) -> String {
        self.attachment.port().name
    }

    pub(crate) fn ethernet_address(&self) -> Mac {
        self.attachment.port().pod_mac
    }

    pub(crate) fn gone(&self) {
        NetNs::remove_named(&self.path).unwrap();
    }
}

/// Runs `future` to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Names of the ports on the node.
pub(crate) fn ports() -> BTreeSet<String> {
    let links = block_on(async { Netlink::new().unwrap().links().await.unwrap() });
    let names = links.into_iter().map(|link| link.name);
    names.filter(|name| selvedge::pod::attachment::is_port(name)).collect()
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

const TIMEOUT: Duration = Duration::from_secs(5);

/// Connects from `client` to a server at `address` in `server` and gives the source that the server saw.
pub(crate) fn tcp(client: &NetNs, server: &NetNs, address: IpAddr) -> IpAddr {
    let listener = server.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let accepted = std::thread::spawn(move || listener.accept().unwrap().1);
    let stream = client.run(|| TcpStream::connect_timeout(&target, TIMEOUT)).unwrap();
    let stream = stream.unwrap_or_else(|error| panic!("{} to {target}: {error}", client.name().display()));
    let seen = accepted.join().unwrap();
    assert_eq!(seen.port(), stream.local_addr().unwrap().port());
    seen.ip()
}

/// Whether a datagram from `client` gets to `address` in `server` within `patience`.
pub(crate) fn udp(client: &NetNs, server: &NetNs, address: IpAddr, patience: Duration) -> bool {
    let any = |address: IpAddr| if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let bind = |address: SocketAddr| UdpSocket::bind(address).unwrap();
    let receiver = server.run(|| bind((address, 0).into())).unwrap();
    receiver.set_read_timeout(Some(patience)).unwrap();
    let sender = client.run(|| bind(any(address).parse().unwrap())).unwrap();
    // An error tells of an ICMP message that came back; whether the datagram got there tells the receiver.
    let _ = sender.send_to(b"hello", receiver.local_addr().unwrap());
    receiver.recv(&mut [0; 16]).is_ok()
}
