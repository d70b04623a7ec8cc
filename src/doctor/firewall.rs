//! Firewalls of the node that drop what pods send to each other, or the tunnel's datagrams.

use ipnet::IpNet;

use super::finding::Finding;
use super::ruleset::{Dropping, Ruleset};
use crate::config::Config;
use crate::kernel::nft::{Expression, Hook, Rule, Verdict, octets};

const CHECK: &str = "firewall";
/// The default `listenPort`.
const PORT: u16 = 51830;

pub(super) fn judge(ruleset: &Ruleset, config: Option<&Config>) -> Vec<Finding> {
    let port = config.map_or(PORT, |config| config.listen_port);
    let pods = config.map(|config| config.cluster_pod_cidrs.as_slice()).unwrap_or_default();
    let mut findings: Vec<_> =
        ruleset.dropping.iter().filter_map(|chain| dropping(chain, ruleset, pods, port)).collect();
    findings.extend(ruleset.has_table("firewalld").then(|| firewalld(pods, port)));
    findings.extend(legacy(ruleset));
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "nothing drops what is forwarded or comes to the tunnel"));
    }
    findings
}

fn dropping(chain: &Dropping, ruleset: &Ruleset, pods: &[IpNet], port: u16) -> Option<Finding> {
    let Dropping { family, table, chain: name, base, rules } = chain;
    let place = format!("chain {name} of table {family} {table}");
    match base.hook {
        Hook::Forward if rules.iter().any(|rule| accepts_pods(rule, pods)) => Some(Finding::warning(
            CHECK,
            format!("{place} drops what is forwarded, but for rules that name pods"),
            "see that they accept every address in clusterPodCIDRs, in both directions",
        )),
        Hook::Forward => Some(Finding::problem(
            CHECK,
            format!("{place} drops what is forwarded: pods' packets too{}", owner(ruleset)),
            forward_remedy(ruleset, chain, pods),
        )),
        Hook::Input => Some(Finding::warning(
            CHECK,
            format!("{place} drops what comes in, but for what its rules accept"),
            format!("see that it accepts UDP port {port} from the other nodes"),
        )),
        _ => None,
    }
}

/// Whether a rule accepts packets by one of our devices, or from or to an address in `pods`.
fn accepts_pods(rule: &Rule, pods: &[IpNet]) -> bool {
    let accepts = rule.expressions.contains(&Expression::Verdict(Verdict::Accept));
    let names_pods = |value: &[u8]| {
        let device = value.starts_with(b"selvedge") || value.starts_with(b"slv");
        // Whole bytes of a prefix are compared, as in 10.244.0.0/16.
        let prefix = |net: &IpNet| {
            let bytes = usize::from(net.prefix_len() / 8);
            bytes > 0 && value.len() >= bytes && octets(net.addr())[..bytes] == value[..bytes]
        };
        device || pods.iter().any(prefix)
    };
    accepts
        && rule.expressions.iter().any(|expression| match expression {
            Expression::Compare { value, .. } => names_pods(value),
            _ => false,
        })
}

fn is_docker(ruleset: &Ruleset) -> bool {
    ruleset.has_compat("DOCKER")
}

fn is_ufw(ruleset: &Ruleset) -> bool {
    ruleset.has_compat("ufw-")
}

fn owner(ruleset: &Ruleset) -> &'static str {
    match (is_ufw(ruleset), is_docker(ruleset)) {
        (true, _) => " (ufw is here)",
        (false, true) => " (Docker is here)",
        _ => "",
    }
}

fn forward_remedy(ruleset: &Ruleset, chain: &Dropping, pods: &[IpNet]) -> String {
    if is_ufw(ruleset) {
        return "set DEFAULT_FORWARD_POLICY=\"ACCEPT\" in /etc/default/ufw, then `ufw reload`".into();
    }
    if is_docker(ruleset) {
        return "set \"ip-forward-no-drop\": true in Docker's /etc/docker/daemon.json (Docker 28) and reboot, or accept \
                clusterPodCIDRs in chain DOCKER-USER"
            .into();
    }
    let example = pods.first().map_or("10.244.0.0/16".to_owned(), ToString::to_string);
    format!(
        "accept clusterPodCIDRs there as source and destination: nft insert rule {} {} {} ip saddr {example} accept",
        chain.family, chain.table, chain.chain
    )
}

fn firewalld(pods: &[IpNet], port: u16) -> Finding {
    let sources: String = pods.iter().map(|net| format!(" --add-source={net}")).collect();
    let sources = if sources.is_empty() { " --add-source=POD-CIDR".to_owned() } else { sources };
    Finding::warning(
        CHECK,
        "firewalld is running: it refuses what is forwarded between zones, and unknown ports",
        format!(
            "firewall-cmd --permanent --zone=trusted{sources} --add-interface=selvedge0 && firewall-cmd --permanent \
             --add-port={port}/udp && firewall-cmd --reload"
        ),
    )
}

fn legacy(ruleset: &Ruleset) -> Option<Finding> {
    let seen = "the old iptables is in use here, whose rules nftables does not show";
    ruleset
        .legacy
        .iter()
        .any(|table| table == "filter")
        .then(|| Finding::warning(CHECK, seen, "see `iptables-legacy -S FORWARD` for a policy of DROP"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::tests::config;
    use super::*;
    use crate::kernel::nft::{Base, ChainKind, End, Family, Ip, Policy};

    fn chain(hook: Hook, rules: Vec<Rule>) -> Dropping {
        let base = Base { kind: ChainKind::Filter, hook, priority: 0, policy: Policy::Drop, device: None };
        let (table, chain) = ("filter".to_owned(), "FORWARD".to_owned());
        Dropping { family: Family::Ipv4, table, chain, base, rules }
    }

    fn with(dropping: Vec<Dropping>, chains: &[&str]) -> Ruleset {
        let chains = chains.iter().map(|chain| (*chain).to_owned()).collect();
        let compat = [((Family::Ipv4, "filter".to_owned()), chains)].into();
        Ruleset { dropping, compat, ..Ruleset::default() }
    }

    fn only(ruleset: &Ruleset) -> Finding {
        let mut findings = judge(ruleset, Some(&config("")));
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn nothing_is_well() {
        assert_eq!(only(&Ruleset::default()).severity, Severity::Ok);
        assert_eq!(only(&with(vec![chain(Hook::Output, vec![])], &[])).severity, Severity::Ok);
    }

    #[test]
    fn a_forward_policy_of_drop_is_a_problem_with_the_owners_remedy() {
        for (chains, remedy) in [
            (&["DOCKER-USER"][..], "ip-forward-no-drop"),
            (&["ufw-before-forward"], "DEFAULT_FORWARD_POLICY"),
            (&[], "nft insert rule ip filter FORWARD ip saddr 10.244.0.0/16 accept"),
        ] {
            let finding = only(&with(vec![chain(Hook::Forward, vec![])], chains));
            assert_eq!(finding.severity, Severity::Problem);
            assert!(finding.remedy.unwrap().contains(remedy), "{remedy}");
        }
    }

    #[test]
    fn rules_that_name_pods_soften_it() {
        let source = Rule::new().address(End::Source, "10.244.0.0".parse().unwrap()).accept();
        let device = Rule::new().iif_name("selvedge0").accept();
        for rule in [source, device] {
            assert_eq!(only(&with(vec![chain(Hook::Forward, vec![rule])], &[])).severity, Severity::Warning);
        }
        let others = Rule::new().ip(Ip::V4).iif_name("docker0").accept();
        let dropped = Rule::new().iif_name("selvedge0").drop();
        let finding = only(&with(vec![chain(Hook::Forward, vec![others, dropped])], &[]));
        assert_eq!(finding.severity, Severity::Problem);
    }

    #[test]
    fn the_tunnels_port_has_to_be_let_in() {
        let finding = only(&with(vec![chain(Hook::Input, vec![])], &[]));
        assert!(finding.severity == Severity::Warning && finding.remedy.unwrap().contains("UDP port 51830"));
        let firewalld = Ruleset { tables: [(Family::Inet, "firewalld".into())].into(), ..Ruleset::default() };
        let remedy = only(&firewalld).remedy.unwrap();
        assert!(remedy.contains("--add-source=10.244.0.0/16") && remedy.contains("51830/udp"), "{remedy}");
        let legacy = Ruleset { legacy: vec!["filter".into()], ..Ruleset::default() };
        assert_eq!(only(&legacy).severity, Severity::Warning);
    }
}
