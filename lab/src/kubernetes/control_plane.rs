//! etcd, API server, controller manager and scheduler, each a process of the machine that they run on.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::machine::Site;
use crate::error::{Doing as _, Error};
use crate::plan::API_PORT;
use crate::process::{self, Process};
use crate::space::{DISK, Space};

/// Who issues service accounts' tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What the audit log has: who asked for what, of Selvedge alone.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: [system:serviceaccounts:selvedge-system]
  - level: None
";
/// Name of the audit log, on the control plane's disk.
pub(super) const AUDIT_LOG: &str = "audit.log";

/// The processes of a control plane.
pub(super) struct ControlPlane {
    // In the order in which they have to end.
    pub(super) scheduler: Process,
    pub(super) controllers: Process,
    pub(super) api: Process,
    pub(super) etcd: Process,
}

impl ControlPlane {
    /// Starts it on the machine `name`, whose addresses it is reached at; its disk is at `disk`.
    pub(super) fn start(
        site: &Site<'_>,
        name: &str,
        addresses: &[IpAddr],
        space: &Arc<Space>,
    ) -> Result<Self, Error> {
        let what = "start the control plane";
        let disk = super::machine::Machine::disk(site.folder, name).join("control-plane");
        std::fs::create_dir_all(&disk).doing(what)?;
        write_files(site, addresses, &disk)?;
        let begin = |binary: &str, args: Vec<String>| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            Process::start(site.program(name, binary, &args), space.clone())
        };
        let etcd = begin("etcd", etcd());
        let api = begin("kube-apiserver", api_server(site, addresses));
        let controllers = begin("kube-controller-manager", controllers(site));
        let scheduler =
            begin("kube-scheduler", vec![flag("kubeconfig", on_disk("scheduler.kubeconfig")), LEADER.into()]);
        Ok(Self { scheduler, controllers, api, etcd })
    }

    /// The last lines of what its processes have written.
    pub(super) fn logs(&self) -> String {
        let processes = [&self.etcd, &self.api, &self.controllers, &self.scheduler];
        let part = |process: &Process| {
            format!("--- {}\n{}", process.log().display(), process::tail(process.log(), 8))
        };
        processes.map(part).join("\n")
    }
}

const LEADER: &str = "--leader-elect=false";

fn on_disk(name: &str) -> String {
    format!("{DISK}/control-plane/{name}")
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn write_files(site: &Site<'_>, addresses: &[IpAddr], disk: &std::path::Path) -> Result<(), Error> {
    let what = "make the control plane's certificates";
    let authority = site.authority;
    let service =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", "::1"];
    // The Service `kubernetes` gets the first address of each range.
    let first = site.plan.service_cidrs().into_iter().map(|net| super::nth(net, 1));
    let names = service.map(str::to_owned).into_iter();
    let names = names.chain(addresses.iter().copied().chain(first).map(|address| address.to_string()));
    let serving = authority.server(names.collect()).doing(what)?;
    let to_kubelets = authority.client("kube-apiserver-kubelet-client", "system:masters").doing(what)?;
    let client = |user: &str| authority.client(user, "selvedge-lab").doing(what);
    let (controllers, scheduler) =
        (client("system:kube-controller-manager")?, client("system:kube-scheduler")?);
    let accounts = rcgen::KeyPair::generate().doing(what)?;
    let url = format!("https://127.0.0.1:{API_PORT}");
    let files = [
        ("ca.crt", authority.identity().certificate),
        ("ca.key", authority.identity().key),
        ("api.crt", serving.certificate),
        ("api.key", serving.key),
        ("kubelet-client.crt", to_kubelets.certificate),
        ("kubelet-client.key", to_kubelets.key),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
        ("controllers.kubeconfig", authority.kubeconfig(&url, &controllers)),
        ("audit.yaml", AUDIT_POLICY.into()),
        ("scheduler.kubeconfig", authority.kubeconfig(&url, &scheduler)),
    ];
    files.iter().try_for_each(|(name, text)| std::fs::write(disk.join(name), text)).doing(what)
}

/// Without fsync: a lab keeps nothing.
fn etcd() -> Vec<String> {
    let (clients, peers) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    vec![
        flag("data-dir", on_disk("etcd")),
        flag("listen-client-urls", clients),
        flag("advertise-client-urls", clients),
        flag("listen-peer-urls", peers),
        flag("initial-advertise-peer-urls", peers),
        flag("initial-cluster", format!("default={peers}")),
        flag("unsafe-no-fsync", true),
        flag("log-level", "warn"),
    ]
}

fn api_server(site: &Site<'_>, addresses: &[IpAddr]) -> Vec<String> {
    let advertised = addresses.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    vec![
        flag("advertise-address", advertised),
        flag("bind-address", "::"),
        flag("secure-port", API_PORT),
        flag("etcd-servers", "http://127.0.0.1:2379"),
        flag("service-cluster-ip-range", list(&site.plan.service_cidrs())),
        flag("service-account-issuer", ISSUER),
        flag("service-account-key-file", on_disk("accounts.pub")),
        flag("service-account-signing-key-file", on_disk("accounts.key")),
        flag("client-ca-file", on_disk("ca.crt")),
        flag("tls-cert-file", on_disk("api.crt")),
        flag("tls-private-key-file", on_disk("api.key")),
        flag("kubelet-certificate-authority", on_disk("ca.crt")),
        flag("kubelet-client-certificate", on_disk("kubelet-client.crt")),
        flag("kubelet-client-key", on_disk("kubelet-client.key")),
        // Names of nodes do not resolve.
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("allow-privileged", true),
        flag("audit-policy-file", on_disk("audit.yaml")),
        flag("audit-log-path", on_disk(AUDIT_LOG)),
    ]
}

fn controllers(site: &Site<'_>) -> Vec<String> {
    let mut args = vec![
        flag("kubeconfig", on_disk("controllers.kubeconfig")),
        flag("authentication-kubeconfig", on_disk("controllers.kubeconfig")),
        flag("authorization-kubeconfig", on_disk("controllers.kubeconfig")),
        flag("service-account-private-key-file", on_disk("accounts.key")),
        flag("root-ca-file", on_disk("ca.crt")),
        flag("cluster-signing-cert-file", on_disk("ca.crt")),
        flag("cluster-signing-key-file", on_disk("ca.key")),
        flag("use-service-account-credentials", true),
        flag("allocate-node-cidrs", true),
        flag("cluster-cidr", list(&site.plan.cluster_pod_cidrs())),
        flag("service-cluster-ip-range", list(&site.plan.service_cidrs())),
        LEADER.into(),
    ];
    for net in site.plan.cluster_pod_cidrs() {
        args.push(match net {
            IpNet::V4(_) => flag("node-cidr-mask-size-ipv4", 24),
            IpNet::V6(_) => flag("node-cidr-mask-size-ipv6", 64),
        });
    }
    args
}
