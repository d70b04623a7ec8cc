//! Settings of the kernel that forwarding hangs on. The agent sets its own; what undoes them later shows here.

use super::finding::Finding;
use super::host::Host;
use super::mtu::has_ipv6;
use crate::config::Config;

const CHECK: &str = "sysctl";

/// Their values; none where there is no such key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    ip_forward: Option<String>,
    /// Of `all`, and of the tunnel's device: the larger counts.
    rp_filter: (Option<String>, Option<String>),
    disable_ipv6: Option<String>,
}

impl Facts {
    pub(super) fn gather(host: &Host, interface: &str) -> Self {
        Self {
            ip_forward: host.sysctl("ipv4/ip_forward"),
            rp_filter: (
                host.sysctl("ipv4/conf/all/rp_filter"),
                host.sysctl(&format!("ipv4/conf/{interface}/rp_filter")),
            ),
            disable_ipv6: host.sysctl("ipv6/conf/all/disable_ipv6"),
        }
    }
}

/// `installed`: the agent has been here, so its settings should be.
pub(super) fn judge(facts: &Facts, config: Option<&Config>, installed: bool) -> Vec<Finding> {
    let mut findings: Vec<_> =
        [forward(facts, installed), reverse_path(facts), ipv6(facts, config)].into_iter().flatten().collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "forwarding, reverse-path filter and IPv6 are as they have to be"));
    }
    findings
}

fn forward(facts: &Facts, installed: bool) -> Option<Finding> {
    (installed && facts.ip_forward.as_deref() == Some("0")).then(|| {
        Finding::problem(
            CHECK,
            "net.ipv4.ip_forward is 0: nothing gets to pods or away from them",
            "take the line that sets it out of /etc/sysctl.conf or /etc/sysctl.d; the agent sets it again",
        )
    })
}

/// ip-sysctl: the larger of `all` and the device's own counts; 1 is strict.
fn reverse_path(facts: &Facts) -> Option<Finding> {
    let (all, device) = &facts.rp_filter;
    let strict = |device: &String| all.as_ref().max(Some(device)).is_some_and(|value| value == "1");
    if device.as_ref().is_some_and(strict) {
        return Some(Finding::problem(
            CHECK,
            "rp_filter of the tunnel's device is 1: packets of other nodes' own addresses are dropped",
            "take the line that sets it out of /etc/sysctl.d; the agent sets 2 again",
        ));
    }
    (all.as_deref() == Some("1")).then(|| {
        Finding::warning(
            CHECK,
            "net.ipv4.conf.all.rp_filter is 1: a node with several uplinks drops what comes by another than it answers by",
            "set it to 2 (loose) where the node has several; the tunnel's own device has 2 from the agent",
        )
    })
}

fn ipv6(facts: &Facts, config: Option<&Config>) -> Option<Finding> {
    if !config.is_some_and(has_ipv6) {
        return None;
    }
    let seen = match facts.disable_ipv6.as_deref() {
        Some("0") => return None,
        Some(_) => "net.ipv6.conf.all.disable_ipv6 is set, and clusterPodCIDRs has an IPv6 range",
        None => "this kernel has no IPv6, and clusterPodCIDRs has an IPv6 range",
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

    fn facts(values: [&str; 4]) -> Facts {
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
        Facts::gather(&fake.host, "selvedge0")
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
        ] {
            let findings = judge(&facts(values), Some(config), installed);
            assert_eq!(findings.len(), 1, "{values:?}: {findings:?}");
            assert_eq!(findings[0].severity, expected, "{values:?}");
        }
    }
}
