//! A machine of the cluster: a node's namespaces, furnished so that containerd and kubelet find a machine of their own
//! in there, and these two, if wanted with kube-proxy, running on it.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use selvedge::pod::attachment::{BRIDGE, PREFIX};
use serde_json::{Value, json};

use super::ProxyMode;
use super::assets::Assets;
use super::pki::{Authority, Identity};
use crate::error::{Doing as _, Error};
use crate::plan::{Datapath, NodePlan, Plan};
use crate::process::{self, Process, Program};
use crate::space::{DISK, Space};

/// What the kubelet would set on the whole machine, with the values it wants: it finds them here and leaves those alone.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
/// Folders that a machine sees with changes of its own.
const OWN_LAYER: [&str; 3] = ["etc", "opt", "var"];
/// Folders that are its own alone, on a file system on which containers' layers can be.
const OWN: [&str; 3] = ["/var/lib/containerd", "/var/lib/kubelet", "/var/log/pods"];
/// Folder of the pods that a kubelet runs whatever the API server says, on the machine's disk.
pub(super) const MANIFESTS: &str = "manifests";
const CONTAINERD: &str = "/run/containerd/containerd.sock";
const PLUGINS: &str = "/opt/cni/bin";
const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// A machine that runs.
pub(super) struct Machine {
    plan: NodePlan,
    space: Arc<Space>,
    // In the order in which they have to end.
    proxy: Option<Process>,
    pub(super) kubelet: Process,
    pub(super) containerd: Process,
}

impl Machine {
    /// Where the machine's files are, as the lab sees them.
    pub(super) fn disk(folder: &Path, name: &str) -> PathBuf {
        folder.join("nodes").join(name)
    }

    /// Makes the machine's namespaces; nothing runs yet.
    pub(super) fn space(folder: &Path, plan: &NodePlan) -> Result<Arc<Space>, Error> {
        let disk = Self::disk(folder, &plan.name);
        let made = lay_out(&disk).and_then(|()| std::fs::create_dir_all(folder.join("logs")));
        made.doing(format!("lay out the disk of {}", plan.name))?;
        Space::create_with(&plan.name, &disk, &furnish).map(Arc::new).doing(format!("make {}", plan.name))
    }

    /// Starts containerd, kubelet and, if wanted, kube-proxy.
    pub(super) fn start(
        plan: NodePlan,
        space: Arc<Space>,
        site: &Site<'_>,
        proxy: Option<ProxyMode>,
    ) -> Result<Self, Error> {
        let what = format!("start {}", plan.name);
        let disk = Self::disk(site.folder, &plan.name);
        site.write_files(&disk, &plan)?;
        // Runtimes call loopback for every pod, whoever wires the pod otherwise; bandwidth is to be chained.
        let programs =
            ["loopback", "bandwidth"].map(|name| (name, site.assets.binary(&format!("cni/{name}"))));
        let install = || {
            std::fs::create_dir_all(PLUGINS)?;
            programs.iter().try_for_each(|(name, program)| {
                std::fs::copy(program, Path::new(PLUGINS).join(name)).map(drop)
            })
        };
        space.run(install).doing(&what)?.doing(&what)?;
        let containerd = site.program(&plan.name, "containerd", &["--config", &on_disk("containerd.toml")]);
        let containerd = Process::start(containerd, space.clone());
        let ready = || space.run(|| Path::new(CONTAINERD).exists()).unwrap_or(false);
        process::wait_for("containerd's socket", super::READY, ready)
            .map_err(|why| Error::new(&what, format!("{why}\n{}", process::tail(containerd.log(), 15))))?;
        site.import(&plan.name, &space)?;
        let node_ip = plan.cable.addresses().iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        let kubelet = [
            "--config",
            &on_disk("kubelet.json"),
            "--kubeconfig",
            &on_disk("kubelet.kubeconfig"),
            "--hostname-override",
            &plan.name,
            "--node-ip",
            &node_ip,
        ];
        let kubelet = Process::start(site.program(&plan.name, "kubelet", &kubelet), space.clone());
        let proxy = match proxy {
            Some(mode) => {
                let config = site.proxy_config(&plan.name, mode).to_string();
                std::fs::write(disk.join("kube-proxy.json"), config).doing(&what)?;
                let arguments = ["--config", &on_disk("kube-proxy.json")];
                Some(Process::start(site.program(&plan.name, "kube-proxy", &arguments), space.clone()))
            }
            None => None,
        };
        Ok(Self { plan, space, proxy, kubelet, containerd })
    }

    pub(super) fn plan(&self) -> &NodePlan {
        &self.plan
    }

    pub(super) fn kube_proxy(&self) -> Option<&Process> {
        self.proxy.as_ref()
    }

    pub(super) fn namespaces(&self) -> &Arc<Space> {
        &self.space
    }

    /// The last lines of what its processes have written.
    pub(super) fn logs(&self) -> String {
        let processes = [&self.containerd, &self.kubelet].into_iter().chain(&self.proxy);
        let part = |process: &Process| {
            format!("--- {}\n{}", process.log().display(), process::tail(process.log(), 12))
        };
        processes.map(part).collect::<Vec<_>>().join("\n")
    }
}

/// What all machines have in common.
pub(super) struct Site<'a> {
    pub(super) assets: &'a Assets,
    pub(super) folder: &'a Path,
    pub(super) plan: Plan,
    pub(super) authority: &'a Authority,
    /// Where machines find the API server.
    pub(super) api: String,
}

impl Site<'_> {
    /// A program of Kubernetes, with its log file.
    pub(super) fn program(&self, machine: &str, binary: &str, args: &[&str]) -> Program {
        let name = format!("{machine}-{binary}");
        Program {
            log: self.folder.join("logs").join(format!("{name}.log")),
            name,
            binary: self.assets.binary(binary),
            args: args.iter().map(OsString::from).collect(),
            env: vec![("PATH".into(), self.search_path())],
        }
    }

    /// containerd looks for its shim there, kube-proxy for `nft`.
    fn search_path(&self) -> OsString {
        let mut path = self.assets.kubernetes_folder.join("bin").into_os_string();
        path.push(":/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        path
    }

    fn write_files(&self, disk: &Path, plan: &NodePlan) -> Result<(), Error> {
        let what = format!("write the files of {}", plan.name);
        let addresses = plan.cable.addresses();
        let names = addresses.iter().map(IpAddr::to_string).chain([plan.name.clone()]);
        let serving = self.authority.server(names.collect()).doing(&what)?;
        let user = format!("system:node:{}", plan.name);
        let kubelet = self.authority.client(&user, "system:nodes").doing(&what)?;
        let proxy = self.authority.client("system:kube-proxy", "selvedge-lab").doing(&what)?;
        let kubeconfig = |identity: &Identity| self.authority.kubeconfig(&self.api, identity);
        let files = [
            ("ca.crt", self.authority.identity().certificate),
            ("kubelet.crt", serving.certificate),
            ("kubelet.key", serving.key),
            ("kubelet.kubeconfig", kubeconfig(&kubelet)),
            ("kube-proxy.kubeconfig", kubeconfig(&proxy)),
            ("kubelet.json", self.kubelet_config().to_string()),
            ("containerd.toml", self.containerd_config()),
            ("resolv.conf", String::new()),
        ];
        for (name, text) in files {
            std::fs::write(disk.join(name), text).doing(&what)?;
        }
        Ok(())
    }

    fn kubelet_config(&self) -> Value {
        // One address is enough: resolvers of pods take it in either family.
        let dns: Vec<IpAddr> = super::dns_addresses(&self.plan).into_iter().take(1).collect();
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": on_disk("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": on_disk("kubelet.crt"),
            "tlsPrivateKeyFile": on_disk("kubelet.key"),
            "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failSwapOn": false,
            "failCgroupV1": false,
            "clusterDomain": "cluster.local",
            "clusterDNS": dns,
            "resolvConf": on_disk("resolv.conf"),
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "maxPods": 250,
            "staticPodPath": on_disk(MANIFESTS),
            "fileCheckFrequency": "1s",
            // As operators do it: no pod starts before the agent has taken it off.
            "registerWithTaints": [{"key": super::install::TAINT, "effect": "NoSchedule"}],
        })
    }

    /// kube-proxy detects packets from this node's pods by their input device, not by `clusterCIDR`: another node's pod keeps
    /// its address when it calls a node port here, and is a client from outside for `externalTrafficPolicy: Local`.
    fn proxy_config(&self, name: &str, mode: ProxyMode) -> Value {
        let (detect, devices) = match self.plan.datapath {
            Datapath::Bridge => ("BridgeInterface", json!({"bridgeInterface": BRIDGE})),
            Datapath::Routed => ("InterfaceNamePrefix", json!({"interfaceNamePrefix": PREFIX})),
        };
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode.to_string(),
            "detectLocalMode": detect,
            "detectLocal": devices,
            "hostnameOverride": name,
            "clientConnection": {"kubeconfig": on_disk("kube-proxy.kubeconfig")},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        })
    }

    fn containerd_config(&self) -> String {
        let runc = self.assets.binary("runc");
        format!(
            r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{}"
SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{PLUGINS}"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.nri.v1.nri"]
disable = true
"#,
            runc.display()
        )
    }

    /// Gives the node its images, as there is no registry.
    fn import(&self, name: &str, space: &Space) -> Result<(), Error> {
        let what = format!("import images on {name}");
        for image in self.assets.images().doing(&what)? {
            let mut command = Command::new(self.assets.binary("ctr"));
            command.args(["--namespace", "k8s.io", "images", "import"]).arg(&image);
            command.env("PATH", self.search_path());
            let output = space.place(&mut command).output().doing(&what)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Error::new(what, format!("{}: {said}", image.display())));
            }
        }
        Ok(())
    }
}

fn on_disk(name: &str) -> String {
    format!("{DISK}/{name}")
}

fn lay_out(disk: &Path) -> io::Result<()> {
    for layer in OWN_LAYER {
        for part in ["upper", "work"] {
            std::fs::create_dir_all(disk.join("layers").join(layer).join(part))?;
        }
    }
    for own in OWN {
        std::fs::create_dir_all(disk.join("own").join(own.trim_start_matches('/')))?;
    }
    std::fs::create_dir_all(disk.join("tunables"))?;
    std::fs::create_dir_all(disk.join(MANIFESTS))?;
    for (key, value) in TUNABLES {
        std::fs::write(disk.join("tunables").join(key.replace('/', ".")), format!("{value}\n"))?;
    }
    Ok(())
}

/// In the machine's mount namespace, with its disk at [`DISK`].
fn furnish() -> io::Result<()> {
    let none = None::<&str>;
    let disk = Path::new(DISK);
    crate::cgroup::mount()?;
    for layer in OWN_LAYER {
        let (folder, place) = (disk.join("layers").join(layer), Path::new("/").join(layer));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            place.display(),
            folder.join("upper").display(),
            folder.join("work").display()
        );
        mount(Some("overlay"), &place, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    }
    for own in OWN {
        std::fs::create_dir_all(own)?;
        let source = disk.join("own").join(own.trim_start_matches('/'));
        mount(Some(&source), own, none, MsFlags::MS_BIND, none)?;
    }
    for (key, _) in TUNABLES {
        let (file, place) =
            (disk.join("tunables").join(key.replace('/', ".")), Path::new("/proc/sys").join(key));
        if place.exists() {
            mount(Some(&file), &place, none, MsFlags::MS_BIND, none)?;
        }
    }
    // Kubelets hand mounts on to containers.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    Ok(())
}
