//! Settings of the kernel that forwarding hangs on. The agent sets its own; what undoes them later shows here.

use std::io;

use super::finding::Finding;
use super::host::Host;
use crate::config::{Config, Datapath};
use crate::fabric;

const CHECK: &str = "sysctl";
/// Names of settings without which it works, less well.
const LESSER: [&str; 3] = ["send_redirects", "accept_redirects", "accept_ra"];

/// A value as it was read.
type Value = io::Result<String>;

/// Their values.
#[derive(Debug)]
pub(super) struct Facts {
    /// What the agent sets, with the value that it sets and the one that is there; nothing before it has been here.
    set: Vec<(String, &'static str, Value)>,
    forward: Value,
    /// Of `all`, and of the tunnel's device: the larger counts.
    rp_filter: (Value, Value),
    disable_ipv6: Value,
}

impl Facts {
    /// `installed`: the agent has been here, so its settings should be.
    pub(super) fn gather(host: &Host, config: Option<&Config>, installed: bool) -> Self {
        let interface = config.map_or("selvedge0", |config| &config.interface);
        let read = |key: &str| host.try_sysctl(key);
        let set = match config.filter(|_| installed) {
            Some(config) => {
                let (ipv6, routed) = (host.exists("/proc/sys/net/ipv6"), config.datapath == Datapath::Routed);
                fabric::sysctls(Some(interface), ipv6, routed)
            }
            None => Vec::new(),
        };
        Self {
            set: set.into_iter().map(|(key, wanted)| (key.clone(), wanted, read(&key))).collect(),
            forward: read("ipv4/ip_forward"),
            rp_filter: (read("ipv4/conf/all/rp_filter"), read(&format!("ipv4/conf/{interface}/rp_filter"))),
            disable_ipv6: read("ipv6/conf/all/disable_ipv6"),
        }
    }
}

pub(super) fn judge(facts: &Facts, config: Option<&Config>) -> Vec<Finding> {
    // It is there on every kernel.
    if let Err(error) = &facts.forward {
        return vec![unreadable("ipv4/ip_forward", error)];
    }
    let mut findings: Vec<_> = facts.set.iter().filter_map(differs).collect();
    findings.extend(reverse_path(facts));
    findings.extend(ipv6(facts, config));
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "forwarding, reverse-path filter and IPv6 are as they have to be"));
    }
    findings
}

fn unreadable(key: &str, error: &io::Error) -> Finding {
    Finding::skipped(CHECK, format!("{} cannot be read: {error}", name(key)))
}

fn name(key: &str) -> String {
    format!("net.{}", key.replace('/', "."))
}

/// What there is no key for, a device that is gone has, or an IPv6 that is off.
fn differs((key, wanted, found): &(String, &'static str, Value)) -> Option<Finding> {
    let found = match found {
        // The larger of two counts: see below.
        _ if key.ends_with("/rp_filter") => return None,
        Ok(found) if found == wanted => return None,
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(unreadable(key, error)),
    };
    let lesser = LESSER.iter().any(|lesser| key.ends_with(lesser));
    let seen = format!("{} is {found} instead of {wanted}", name(key));
    let remedy =
        "take the line that sets it out of /etc/sysctl.conf or /etc/sysctl.d; the agent sets it again";
    Some(match lesser {
        true => Finding::warning(CHECK, seen, remedy),
        false => Finding::problem(CHECK, format!("{seen}: packets of pods are lost"), remedy),
    })
}

/// ip-sysctl: the larger of `all` and the device's own counts; 1 is strict.
fn reverse_path(facts: &Facts) -> Option<Finding> {
    let (all, device) = (facts.rp_filter.0.as_ref().ok(), facts.rp_filter.1.as_ref().ok());
    if device.is_some() && all.max(device).is_some_and(|value| value == "1") {
        return Some(Finding::problem(
            CHECK,
            "rp_filter of the tunnel's device is 1: packets of other nodes' own addresses are dropped",
            "take the line that sets it out of /etc/sysctl.d; the agent sets 2 again",
        ));
    }
    all.is_some_and(|value| value == "1").then(|| {
        Finding::warning(
            CHECK,
            "net.ipv4.conf.all.rp_filter is 1: a node with several uplinks drops what comes by another than it answers by",
            "set it to 2 (loose) where the node has several; the tunnel's own device has 2 from the agent",
        )
    })
}

fn ipv6(facts: &Facts, config: Option<&Config>) -> Option<Finding> {
    if !config.is_some_and(Config::has_ipv6) {
        return None;
    }
    let seen = match &facts.disable_ipv6 {
        Ok(value) if value == "0" => return None,
        Ok(_) => "net.ipv6.conf.all.disable_ipv6 is set, and clusterPodCIDRs has an IPv6 range",
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "this kernel has no IPv6, and clusterPodCIDRs has an IPv6 range"
        }
        Err(error) => return Some(unreadable("ipv6/conf/all/disable_ipv6", error)),
    };
    Some(Finding::problem(
        CHECK,
        seen,
        "enable IPv6 on this node, or take the IPv6 ranges out of the configuration",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::host::Fake;
    use super::super::tests::config;
    use super::*;

    fn fake(values: [&str; 4]) -> Fake {
        let keys = [
            "ipv4/ip_forward",
            "ipv4/conf/all/rp_filter",
            "ipv4/conf/selvedge0/rp_filter",
            "ipv6/conf/all/disable_ipv6",
        ];
        let fake = Fake::with(&[]);
        for (key, value) in keys.into_iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            fake.write(&format!("/proc/sys/net/{key}"), &format!("{value}\n"));
        }
        fake
    }

    fn only(fake: &Fake, config: &Config, installed: bool) -> Finding {
        let mut findings = judge(&Facts::gather(&fake.host, Some(config), installed), Some(config));
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn each_value_is_judged() {
        let (v4, v6) = (config(""), config("clusterPodCIDRs = [\"fd00:1::/48\"]"));
        for (values, config, installed, expected) in [
            (["1", "0", "2", "0"], &v6, true, Severity::Ok),
            (["0", "0", "", "0"], &v6, false, Severity::Ok),
            (["0", "0", "2", "0"], &v4, true, Severity::Problem),
            (["1", "1", "2", "0"], &v4, true, Severity::Warning),
            (["1", "1", "0", "0"], &v4, true, Severity::Problem),
            (["1", "0", "1", "0"], &v4, true, Severity::Problem),
            (["1", "2", "1", "0"], &v4, true, Severity::Ok),
            (["1", "0", "2", "1"], &v6, true, Severity::Problem),
            (["1", "0", "2", ""], &v6, true, Severity::Problem),
            (["1", "0", "2", "1"], &v4, true, Severity::Ok),
            (["", "", "", ""], &v6, true, Severity::Skipped),
        ] {
            assert_eq!(only(&fake(values), config, installed).severity, expected, "{values:?}");
        }
    }

    #[test]
    fn all_that_the_agent_sets_is_compared() {
        let config = config("datapath = \"routed\"");
        for (key, value, expected) in [
            (fabric::IPV6_FORWARDING, "0", Severity::Problem),
            (fabric::SRC_VALID_MARK, "0", Severity::Problem),
            ("ipv6/conf/selvedge0/disable_ipv6", "1", Severity::Problem),
            ("ipv4/conf/selvedge0/send_redirects", "1", Severity::Warning),
            ("ipv6/conf/selvedge0/accept_ra", "0", Severity::Ok),
        ] {
            let fake = fake(["1", "0", "2", "0"]);
            fake.write(&format!("/proc/sys/net/{key}"), value);
            assert_eq!(only(&fake, &config, true).severity, expected, "{key}");
            assert_eq!(only(&fake, &config, false).severity, Severity::Ok, "{key}");
        }
    }
}
