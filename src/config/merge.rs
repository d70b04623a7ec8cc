//! Flags, environment and file into one checked configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;

use super::error::Problem;
use super::overrides::Overrides;
use super::raw::{self, List, Raw};
use super::value::Value;
use super::{
    Agent, Cni, Config, Conntrack, DEFAULT_MISSING_NODE_GRACE, Datapath, KeyPolicy, NodePortAddresses,
    Services, cidr, key_policy, range,
};
use crate::mtu;
use crate::pod::attachment::{BRIDGE, is_port};

/// A week, in seconds.
const MOST_GRACE: i64 = 7 * 24 * 3600;

const STARTUP_TAINT: &str = "selvedge.dev/not-ready";

/// All values checked, or all problems.
pub(super) fn config(raw: Raw, flags: &Overrides, text: &str) -> Result<Config, Vec<Problem>> {
    let mut merge = Merge { text, problems: Vec::new() };
    let config = merge.config(raw, flags);
    if merge.problems.is_empty() { Ok(config) } else { Err(merge.problems) }
}

struct Merge<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Merge<'_> {
    fn config(&mut self, raw: Raw, flags: &Overrides) -> Config {
        let node_name = self.text("nodeName", flags.node_name.as_deref(), raw.node_name);
        let node_name = self.node_name(node_name);
        let pods = self.list("clusterPodCIDRs", flags.cluster_pod_cidrs.as_ref(), raw.cluster_pod_cidrs);
        let services = self.list("serviceCIDRs", flags.service_cidrs.as_ref(), raw.service_cidrs);
        let plain =
            self.list("nonMasqueradeCIDRs", flags.non_masquerade_cidrs.as_ref(), raw.non_masquerade_cidrs);
        let trusted = self.list("trustedSources", flags.trusted_sources.as_ref(), raw.trusted_sources);
        let cidrs = cidr::check(&cidr::Lists { pods, services, plain, trusted }, &mut self.problems);
        let interface = self.text("interface", flags.interface.as_deref(), raw.interface);
        let interface = self.interface(interface);
        let listen_port = self.number("listenPort", flags.listen_port.as_deref(), raw.listen_port);
        let listen_port = self.bounded(listen_port, 1, 65535).unwrap_or(51830);
        let mtu = self.number("mtu", flags.mtu.as_deref(), raw.mtu);
        let v6 = cidrs.pods.iter().any(|net| net.network().is_ipv6());
        let mtu = self.bounded(mtu, mtu::least_underlay(v6).into(), 65535);
        let endpoints = self.list("endpoints", flags.endpoints.as_ref(), raw.endpoints);
        let endpoints = self.endpoints(&endpoints, listen_port);
        let keepalive = flags.persistent_keepalive.as_deref();
        let keepalive = self.number("persistentKeepalive", keepalive, raw.persistent_keepalive);
        let persistent_keepalive = self.bounded(keepalive, 0, 65535).filter(|seconds: &u16| *seconds > 0);
        let location = self.text("location", flags.location.as_deref(), raw.location);
        let location = self.location(location);
        let datapath = self.text("datapath", flags.datapath.as_deref(), raw.datapath);
        let datapath = self.datapath(datapath);
        let forward = flags.iptables_forward_rules.as_deref();
        let iptables_forward_rules =
            self.boolean("iptablesForwardRules", forward, raw.iptables_forward_rules);
        let proxy = self.text("services", flags.services.as_deref(), raw.services);
        let proxy = self.services(proxy);
        let remove = flags.remove_kube_proxy_rules.as_deref();
        let remove = self.boolean("removeKubeProxyRules", remove, raw.remove_kube_proxy_rules);
        let node_ports =
            self.list("nodePortAddresses", flags.node_port_addresses.as_ref(), raw.node_port_addresses);
        let node_port_addresses = self.node_port_addresses(&node_ports);
        let mark = self.number("firewallMark", flags.firewall_mark.as_deref(), raw.firewall_mark);
        let firewall_mark = self.bounded(mark, 1, u32::MAX.into());
        let conntrack = self.conntrack(raw.conntrack, flags);
        let keys = self.keys(raw.keys, flags);
        let cni = self.cni(raw.cni, flags);
        let agent = self.agent(raw.agent, flags);
        let (cluster_pod_cidrs, service_cidrs) = (cidrs.pods, cidrs.services);
        let (non_masquerade_cidrs, trusted_sources) = (cidrs.plain, cidrs.trusted);
        Config {
            node_name,
            cluster_pod_cidrs,
            service_cidrs,
            non_masquerade_cidrs,
            trusted_sources,
            interface,
            listen_port,
            mtu,
            endpoints,
            persistent_keepalive,
            location,
            datapath,
            iptables_forward_rules: iptables_forward_rules.unwrap_or(false),
            services: proxy,
            remove_kube_proxy_rules: remove.unwrap_or(false),
            node_port_addresses,
            firewall_mark,
            conntrack,
            keys,
            cni,
            agent,
        }
    }

    fn node_name(&mut self, name: Option<Value<String>>) -> String {
        let host = || nix::unistd::gethostname().map(|name| name.to_string_lossy().to_lowercase());
        let name = name.unwrap_or_else(|| Value {
            value: host().unwrap_or_default(),
            line: None,
            key: "nodeName".into(),
        });
        if !is_object_name(&name.value) {
            let remedy = "write the name that `kubectl get nodes` shows";
            self.problems.push(name.problem(format!("`{}` cannot be a Node's name", name.value), remedy));
        }
        name.value
    }

    fn interface(&mut self, name: Option<Value<String>>) -> String {
        let Some(name) = name else { return "selvedge0".into() };
        let wrong = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        if name.value.len() > 15 || name.value.contains(wrong) || [".", ".."].contains(&&*name.value) {
            let remedy = "write at most 15 bytes, without spaces, `/`, `:` and `%`";
            self.problems.push(name.problem(format!("`{}` cannot be a device's name", name.value), remedy));
        }
        if name.value == BRIDGE || is_port(&name.value) {
            let problem = format!("`{}` is a name that devices of pods have", name.value);
            self.problems.push(name.problem(problem, "choose another name"));
        }
        name.value
    }

    fn endpoints(&mut self, texts: &[Value<String>], listen_port: u16) -> Vec<SocketAddr> {
        let most = super::MAX_ENDPOINTS;
        if let Some(first) = texts.get(most) {
            self.problems.push(first.problem(format!("more than {most} endpoints"), "keep the best ones"));
        }
        let mut endpoints = Vec::new();
        for text in texts {
            match endpoint(text, listen_port) {
                Ok(endpoint) if endpoints.contains(&endpoint) => {
                    let problem = format!("`{}` is listed twice", text.value);
                    self.problems.push(text.problem(problem, "list it once"));
                }
                Ok(endpoint) => endpoints.push(endpoint),
                Err(problem) => self.problems.push(problem),
            }
        }
        endpoints
    }

    fn location(&mut self, location: Option<Value<String>>) -> Option<String> {
        let location = location?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if location.value.len() > 63 || !location.value.bytes().all(known) {
            let remedy = "write at most 63 letters, digits and -_.";
            self.problems.push(location.problem(format!("`{}` is no location", location.value), remedy));
        }
        Some(location.value)
    }

    fn datapath(&mut self, datapath: Option<Value<String>>) -> Datapath {
        match datapath {
            Some(datapath) if datapath.value == "routed" => return Datapath::Routed,
            Some(datapath) if datapath.value != "bridge" => {
                let problem = format!("`{}` is no datapath", datapath.value);
                self.problems.push(datapath.problem(problem, "write \"bridge\" or \"routed\""));
            }
            _ => {}
        }
        Datapath::Bridge
    }

    fn services(&mut self, services: Option<Value<String>>) -> Services {
        match services {
            Some(services) if services.value == "on" => return Services::On,
            Some(services) if services.value == "auto" => return Services::Auto,
            Some(services) if services.value != "off" => {
                let problem = format!("`{}` is not a way to serve Services", services.value);
                self.problems.push(services.problem(problem, "write \"auto\", \"on\" or \"off\""));
            }
            _ => {}
        }
        Services::Off
    }

    fn node_port_addresses(&mut self, texts: &[Value<String>]) -> Vec<NodePortAddresses> {
        let mut addresses = Vec::new();
        for text in texts {
            match text.value.parse() {
                Ok(read) => addresses.push(read),
                Err(problem) => {
                    let remedy = "write \"primary\", \"all\", \"localhost\" or ranges like \"192.0.2.0/24\"";
                    self.problems.push(text.problem(problem, remedy));
                }
            }
        }
        if addresses.is_empty() { super::default_node_port_addresses() } else { addresses }
    }

    fn conntrack(&mut self, raw: raw::RawConntrack, flags: &Overrides) -> Conntrack {
        let mut number = |key, flag: &Option<String>, file| {
            let number = self.number(key, flag.as_deref(), file);
            self.bounded(number, 0, i32::MAX.into())
        };
        let default = Conntrack::default();
        let max = number("conntrack.max", &flags.conntrack_max, raw.max);
        let flag = &flags.conntrack_tcp_established_timeout;
        let established = number("conntrack.tcpEstablishedTimeout", flag, raw.tcp_established_timeout);
        let flag = &flags.conntrack_tcp_close_wait_timeout;
        let close_wait = number("conntrack.tcpCloseWaitTimeout", flag, raw.tcp_close_wait_timeout);
        Conntrack {
            max,
            tcp_established_timeout: established.unwrap_or(default.tcp_established_timeout),
            tcp_close_wait_timeout: close_wait.unwrap_or(default.tcp_close_wait_timeout),
        }
    }

    fn keys(&mut self, raw: raw::RawKeys, flags: &Overrides) -> KeyPolicy {
        let text = |key, flag: &Option<String>, file| self.text(key, flag.as_deref(), file);
        let texts = key_policy::Texts {
            cryptoperiod: text("keys.cryptoperiod", &flags.keys_cryptoperiod, raw.cryptoperiod),
            rotate: text("keys.rotate", &flags.keys_rotate, raw.rotate),
            custodian: text("keys.custodian", &flags.keys_custodian, raw.custodian),
            minimum_interval: text(
                "keys.minimumInterval",
                &flags.keys_minimum_interval,
                raw.minimum_interval,
            ),
            warn_before: text("keys.warnBefore", &flags.keys_warn_before, raw.warn_before),
        };
        key_policy::check(texts, &mut self.problems)
    }

    fn cni(&mut self, raw: raw::RawCni, flags: &Overrides) -> Cni {
        let bin_dir = self.path("cni.binDir", flags.cni_bin_dir.as_ref(), raw.bin_dir);
        let conf_dir = self.path("cni.confDir", flags.cni_conf_dir.as_ref(), raw.conf_dir);
        Cni {
            bin_dir: bin_dir.unwrap_or_else(|| "/opt/cni/bin".into()),
            conf_dir: conf_dir.unwrap_or_else(|| "/etc/cni/net.d".into()),
        }
    }

    fn agent(&mut self, raw: raw::RawAgent, flags: &Overrides) -> Agent {
        let address =
            self.text("agent.metricsAddress", flags.metrics_address.as_deref(), raw.metrics_address);
        let default = SocketAddr::from(([127, 0, 0, 1], 51831));
        let metrics_address = address.map_or(default, |address| {
            address.value.parse().unwrap_or_else(|_| {
                let problem = format!("`{}` is no ip:port", address.value);
                self.problems.push(address.problem(problem, "write it like 127.0.0.1:51831"));
                default
            })
        });
        let grace = flags.missing_node_grace.as_deref();
        let grace = self.number("agent.missingNodeGrace", grace, raw.missing_node_grace);
        let taint = self.text("agent.startupTaint", flags.startup_taint.as_deref(), raw.startup_taint);
        Agent {
            metrics_address,
            kubeconfig: self.path("agent.kubeconfig", flags.kubeconfig.as_ref(), raw.kubeconfig),
            startup_taint: self.taint(taint),
            missing_node_grace: self.bounded(grace, 0, MOST_GRACE).unwrap_or(DEFAULT_MISSING_NODE_GRACE),
        }
    }

    fn taint(&mut self, key: Option<Value<String>>) -> String {
        let Some(key) = key else { return STARTUP_TAINT.into() };
        if !is_qualified_name(&key.value) {
            let problem = format!("`{}` cannot be the key of a taint", key.value);
            self.problems.push(key.problem(problem, format!("write it like {STARTUP_TAINT}")));
        }
        key.value
    }

    fn path(
        &mut self,
        key: &'static str,
        flag: Option<&PathBuf>,
        file: Option<Spanned<String>>,
    ) -> Option<PathBuf> {
        let flag = flag.map(|path| path.to_string_lossy());
        let path = self.text(key, flag.as_deref(), file)?;
        if !path.value.starts_with('/') {
            let problem = format!("`{}` is no absolute path", path.value);
            self.problems.push(path.problem(problem, "write it from / on"));
        }
        Some(path.value.into())
    }

    fn text(
        &self,
        key: &'static str,
        flag: Option<&str>,
        file: Option<Spanned<String>>,
    ) -> Option<Value<String>> {
        let flag = flag.filter(|text| !text.is_empty()).map(|text| from_flag(key, text.to_owned()));
        flag.or_else(|| file.map(|text| self.placed(key, text))).filter(|text| !text.value.is_empty())
    }

    fn list(&self, key: &'static str, flag: Option<&Vec<String>>, file: List) -> Vec<Value<String>> {
        let given = flag.into_iter().flatten().filter(|text| !text.trim().is_empty());
        let given: Vec<_> = given.map(|text| from_flag(key, text.trim().to_owned())).collect();
        if !given.is_empty() {
            return given;
        }
        file.unwrap_or_default().into_iter().map(|text| self.placed(key, text)).collect()
    }

    fn number(
        &mut self,
        key: &'static str,
        flag: Option<&str>,
        file: Option<Spanned<i64>>,
    ) -> Option<Value<i64>> {
        let Some(text) = flag.filter(|text| !text.is_empty()) else {
            return file.map(|number| self.placed(key, number));
        };
        let hex = text.strip_prefix("0x").map(|digits| i64::from_str_radix(digits, 16));
        match hex.unwrap_or_else(|| text.parse()) {
            Ok(number) => Some(from_flag(key, number)),
            Err(_) => {
                let problem = format!("`{text}` is no number");
                self.problems.push(from_flag(key, ()).problem(problem, "write digits alone"));
                None
            }
        }
    }

    fn boolean(
        &mut self,
        key: &'static str,
        flag: Option<&str>,
        file: Option<Spanned<bool>>,
    ) -> Option<bool> {
        let Some(text) = flag.filter(|text| !text.is_empty()) else { return file.map(Spanned::into_inner) };
        let value = text.parse().ok();
        if value.is_none() {
            let problem = format!("`{text}` is not a boolean");
            self.problems.push(from_flag(key, ()).problem(problem, "write true or false"));
        }
        value
    }

    fn bounded<T: TryFrom<i64>>(&mut self, number: Option<Value<i64>>, least: i64, most: i64) -> Option<T> {
        let number = number?;
        let fits = (least..=most).contains(&number.value);
        let fitting = T::try_from(number.value).ok().filter(|_| fits);
        if fitting.is_none() {
            let problem = format!("{} is out of range", number.value);
            self.problems.push(number.problem(problem, format!("write {least} to {most}")));
        }
        fitting
    }

    fn placed<T>(&self, key: &str, value: Spanned<T>) -> Value<T> {
        let line = raw::line(self.text, value.span().start);
        Value { value: value.into_inner(), line: Some(line), key: key.into() }
    }
}

fn from_flag<T>(key: &str, value: T) -> Value<T> {
    Value { value, line: None, key: format!("{key} (from a flag or the environment)") }
}

fn endpoint(text: &Value<String>, listen_port: u16) -> Result<SocketAddr, Problem> {
    let wrong = |problem: String| text.problem(problem, "write an address of this node, as ip or ip:port");
    let endpoint = Config::endpoint(&text.value, listen_port).filter(|endpoint| endpoint.port() != 0);
    let endpoint = endpoint.ok_or_else(|| wrong(format!("`{}` is no ip or ip:port", text.value)))?;
    match range::special(endpoint.ip()) {
        Some(range) => Err(wrong(format!("`{}` is in the {range} range", text.value))),
        None => Ok(endpoint),
    }
}

/// As Kubernetes wants keys of labels and taints: a name of at most 63 characters, with or without a domain before it.
fn is_qualified_name(key: &str) -> bool {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let edges = [name.bytes().next(), name.bytes().last()];
    domain.is_none_or(is_object_name)
        && name.len() <= 63
        && name.bytes().all(known)
        && edges.iter().all(|edge| edge.is_some_and(|byte| byte.is_ascii_alphanumeric()))
}

/// RFC 1123 as Kubernetes reads it: lower-case labels with dots between.
fn is_object_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let known = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(known)
    };
    name.len() <= 253 && name.split('.').all(label)
}
