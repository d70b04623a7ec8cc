//! Firewalls of the node that drop what pods send to each other, or the tunnel's datagrams.

use ipnet::IpNet;

use super::finding::Finding;
use super::ruleset::{Dropping, Ruleset};
use crate::config::Config;
use crate::forwarding;
use crate::forwarding::naming::{Named, Pods};
use crate::kernel::iptables;
use crate::kernel::nft::{Family, Hook};

const CHECK: &str = "firewall";
/// The default `listenPort`.
const PORT: u16 = 51830;
/// What stands for a range that is not known.
const SOME: &str = "POD-CIDR";

/// What the judgement hangs on.
struct Judge<'a> {
    ruleset: &'a Ruleset,
    pods: Pods<'a>,
    interface: &'a str,
    port: u16,
    /// There is a device `docker0`.
    docker: bool,
    /// The agent keeps rules for pods in iptables' chains.
    kept: bool,
}

pub(super) fn judge(ruleset: &Ruleset, config: Option<&Config>, docker: bool) -> Vec<Finding> {
    let port = config.map_or(PORT, |config| config.listen_port);
    let interface = config.map_or("selvedge0", |config| &config.interface);
    let kept = config.is_some_and(|config| config.iptables_forward_rules);
    let judge = Judge { ruleset, pods: Pods::new(config), interface, port, docker, kept };
    let mut findings: Vec<_> = ruleset.dropping.iter().filter_map(|chain| judge.dropping(chain)).collect();
    findings.extend(ruleset.has_table("firewalld").then(|| judge.firewalld()));
    findings.extend(ruleset.unread.iter().map(|(family, error)| unread(*family, error)));
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "nothing drops what is forwarded or comes to the tunnel"));
    }
    findings
}

impl Judge<'_> {
    fn dropping(&self, chain: &Dropping) -> Option<Finding> {
        // What it refuses has a finding of its own.
        if chain.table == "firewalld" {
            return None;
        }
        let place = place(chain);
        let port = self.port;
        Some(match chain.hook {
            Hook::Forward => return self.forward(chain, &place),
            Hook::Input => Finding::warning(
                CHECK,
                format!("{place} drops what comes in, but for what its rules accept"),
                format!("see that it accepts UDP port {port} from the other nodes"),
            ),
            Hook::Output => Finding::warning(
                CHECK,
                format!("{place} drops what this node sends, but for what its rules accept"),
                format!("see that it accepts UDP from port {port} and to the other nodes' ports"),
            ),
            _ => Finding::warning(
                CHECK,
                format!("{place} drops what passes, but for what its rules accept"),
                format!(
                    "see that it accepts UDP port {port} of all nodes, and clusterPodCIDRs in both directions"
                ),
            ),
        })
    }

    /// Nothing for a family that has no pods.
    fn forward(&self, chain: &Dropping, place: &str) -> Option<Finding> {
        if !self.pods.ranges.is_empty() && self.ranges(chain.family).is_empty() {
            return None;
        }
        if self.is_ours(chain) {
            let seen =
                format!("{place} drops what is forwarded, but for pods' packets: iptablesForwardRules");
            return Some(Finding::ok(CHECK, seen));
        }
        let but = match self.pods.named_by(&chain.rules) {
            Named::No => {
                let owner = self.owner(chain).map(|owner| format!(" ({owner} is here)")).unwrap_or_default();
                return Some(Finding::problem(
                    CHECK,
                    format!("{place} drops what is forwarded: pods' packets too{owner}"),
                    self.remedy(chain),
                ));
            }
            Named::Perhaps => "but for rules with sets that may name pods",
            Named::Yes => "but for rules that name pods",
        };
        Some(Finding::warning(
            CHECK,
            format!("{place} drops what is forwarded, {but}"),
            "see that they accept every address in clusterPodCIDRs, in both directions",
        ))
    }

    /// Whether all rules that the agent keeps are among those that packets come to.
    fn is_ours(&self, chain: &Dropping) -> bool {
        let wanted = forwarding::rules(chain.family, self.pods.ranges);
        is_kept_in(chain) && !wanted.is_empty() && wanted.iter().all(|rule| chain.rules.contains(rule))
    }

    /// The configured ranges that packets in a table of this family can have.
    fn ranges(&self, family: Family) -> Vec<IpNet> {
        let fits = |net: &&IpNet| match family {
            Family::Ipv4 => net.addr().is_ipv4(),
            Family::Ipv6 => net.addr().is_ipv6(),
            _ => true,
        };
        self.pods.ranges.iter().filter(fits).copied().collect()
    }

    /// Who sets the policy of iptables' table `filter`.
    fn owner(&self, chain: &Dropping) -> Option<&'static str> {
        let Dropping { family, table, legacy, by_policy, .. } = chain;
        if table != "filter" || *family == Family::Inet || !by_policy {
            return None;
        }
        let has = |start| !legacy && self.ruleset.has_compat_in(*family, table, start);
        match (has("ufw-"), has("DOCKER") || (*legacy && self.docker)) {
            (true, _) => Some("ufw"),
            (false, true) => Some("Docker"),
            _ => None,
        }
    }

    fn remedy(&self, chain: &Dropping) -> String {
        let own = self.own_remedy(chain);
        match (is_kept_in(chain), self.kept) {
            (false, true) if chain.legacy => {
                format!("iptablesForwardRules is for iptables-nft alone: switch the node to that. Or {own}")
            }
            (false, _) => own,
            (true, false) => {
                format!("set iptablesForwardRules = true: the agent then keeps rules for pods there. Or {own}")
            }
            (true, true) => {
                "the agent keeps rules for pods there (iptablesForwardRules) and has not done so: see what `selvedge \
                 status` says of `forwarding`"
                    .into()
            }
        }
    }

    /// What the node's owner can do alone.
    fn own_remedy(&self, chain: &Dropping) -> String {
        match self.owner(chain) {
            Some("ufw") => {
                return "set DEFAULT_FORWARD_POLICY=\"ACCEPT\" in /etc/default/ufw, then `ufw reload`".into();
            }
            Some(_) => {
                return "set \"ip-forward-no-drop\": true in Docker's /etc/docker/daemon.json (Docker 28) and reboot, or \
                        accept clusterPodCIDRs in chain DOCKER-USER"
                    .into();
            }
            None => {}
        }
        let commands = match self.ranges(chain.family).as_slice() {
            [] => commands(chain, if chain.family == Family::Ipv6 { "ip6" } else { "ip" }, SOME),
            nets => nets
                .iter()
                .map(|net| commands(chain, word(net), &net.to_string()))
                .collect::<Vec<_>>()
                .join(" && "),
        };
        format!("accept clusterPodCIDRs there as source and destination: {commands}")
    }

    fn firewalld(&self) -> Finding {
        let (interface, port) = (self.interface, self.port);
        let sources: String = self.pods.ranges.iter().map(|net| format!(" --add-source={net}")).collect();
        let sources = if sources.is_empty() { format!(" --add-source={SOME}") } else { sources };
        Finding::warning(
            CHECK,
            "firewalld is running: it refuses what is forwarded between zones, and unknown ports",
            format!(
                "firewall-cmd --permanent --zone=trusted{sources} --add-interface={interface} && firewall-cmd \
                 --permanent --add-port={port}/udp && firewall-cmd --reload"
            ),
        )
    }
}

/// Whether it is a chain in which the agent keeps rules where it is told to.
fn is_kept_in(chain: &Dropping) -> bool {
    let Dropping { family, table, chain, legacy, .. } = chain;
    !legacy && table == iptables::FILTER && chain == iptables::FORWARD && iptables::FAMILIES.contains(family)
}

fn place(chain: &Dropping) -> String {
    let Dropping { family, table, chain, legacy, .. } = chain;
    let old = if *legacy { " of the old iptables" } else { "" };
    format!("chain {chain} of table {family} {table}{old}")
}

/// The word that addresses of a range have in front.
fn word(net: &IpNet) -> &'static str {
    if net.addr().is_ipv4() { "ip" } else { "ip6" }
}

fn commands(chain: &Dropping, word: &str, net: &str) -> String {
    let Dropping { family, table, chain, legacy, .. } = chain;
    let one = |direction: &str, flag: &str| match legacy {
        true => format!("{} -I {chain} {flag} {net} -j ACCEPT", program(*family)),
        false => format!("nft insert rule {family} {table} {chain} {word} {direction} {net} accept"),
    };
    format!("{} && {}", one("saddr", "-s"), one("daddr", "-d"))
}

/// The program of the old iptables.
fn program(family: Family) -> &'static str {
    if family == Family::Ipv6 { "ip6tables-legacy" } else { "iptables-legacy" }
}

fn unread(family: Family, error: &str) -> Finding {
    let program = program(family);
    Finding::warning(
        CHECK,
        format!("whether the old iptables drops packets of family {family} cannot be read: {error}"),
        format!("see `{program} -S FORWARD` and `{program} -S INPUT` for what drops"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::tests::config;
    use super::*;
    use crate::kernel::nft::{End, Ip, Rule};

    fn chain(hook: Hook, rules: Vec<Rule>) -> Dropping {
        let (table, chain) = ("filter".to_owned(), "FORWARD".to_owned());
        Dropping { family: Family::Ipv4, table, chain, hook, by_policy: true, legacy: false, rules }
    }

    fn with(dropping: Vec<Dropping>, chains: &[&str]) -> Ruleset {
        let chains = chains.iter().map(|chain| (*chain).to_owned()).collect();
        let compat = [((Family::Ipv4, "filter".to_owned()), chains)].into();
        Ruleset { dropping, compat, ..Ruleset::default() }
    }

    fn only(ruleset: &Ruleset) -> Finding {
        let mut findings = judge(ruleset, Some(&config("")), true);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn nothing_is_well() {
        assert_eq!(only(&Ruleset::default()).severity, Severity::Ok);
        for hook in [Hook::Output, Hook::Input, Hook::Prerouting, Hook::Postrouting] {
            assert_eq!(only(&with(vec![chain(hook, vec![])], &[])).severity, Severity::Warning);
        }
    }

    #[test]
    fn a_family_without_pods_is_left_alone_and_others_get_their_own_commands() {
        let forward =
            |family| vec![Dropping { family, table: "mine".into(), ..chain(Hook::Forward, vec![]) }];
        assert_eq!(only(&with(forward(Family::Ipv6), &[])).severity, Severity::Ok);
        let both = config("clusterPodCIDRs = [\"10.244.0.0/16\", \"fd00:1::/56\"]");
        let remedy = |family| {
            let ruleset = with(forward(family), &["DOCKER-USER"]);
            judge(&ruleset, Some(&both), true).remove(0).remedy.unwrap()
        };
        let six = "nft insert rule ip6 mine FORWARD ip6 saddr fd00:1::/56 accept && \
                   nft insert rule ip6 mine FORWARD ip6 daddr fd00:1::/56 accept";
        assert!(remedy(Family::Ipv6).ends_with(six), "{}", remedy(Family::Ipv6));
        assert!(!remedy(Family::Ipv6).contains("10.244"));
        let inet = remedy(Family::Inet);
        for part in ["inet mine FORWARD ip daddr 10.244.0.0/16", "inet mine FORWARD ip6 daddr fd00:1::/56"] {
            assert!(inet.contains(part), "{inet}");
        }
        let unknown = judge(&with(forward(Family::Ipv6), &[]), None, false).remove(0);
        assert!(unknown.remedy.unwrap().contains("ip6 saddr POD-CIDR"));
    }

    #[test]
    fn the_old_iptables_is_judged_alike() {
        let legacy = |hook, rules| Dropping { legacy: true, ..chain(hook, rules) };
        let finding = only(&with(vec![legacy(Hook::Forward, vec![])], &[]));
        assert_eq!(finding.severity, Severity::Problem);
        assert!(
            finding.seen.contains("old iptables") && finding.seen.contains("Docker is here"),
            "{finding:?}"
        );
        let mine = judge(&with(vec![legacy(Hook::Forward, vec![])], &[]), Some(&config("")), false).remove(0);
        assert!(mine.remedy.unwrap().contains("iptables-legacy -I FORWARD -d 10.244.0.0/16 -j ACCEPT"));
        let named = Rule::new().address(End::Source, "10.244.0.0".parse().unwrap()).accept();
        assert_eq!(only(&with(vec![legacy(Hook::Forward, vec![named])], &[])).severity, Severity::Warning);
        assert_eq!(only(&with(vec![legacy(Hook::Input, vec![])], &[])).severity, Severity::Warning);
        let ruleset = Ruleset { unread: vec![(Family::Ipv6, "EPERM".into())], ..Ruleset::default() };
        let remedy = only(&ruleset).remedy.unwrap();
        assert!(remedy.contains("ip6tables-legacy -S FORWARD") && remedy.contains("-S INPUT"), "{remedy}");
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
    fn the_option_is_offered_where_it_helps() {
        let on = config("iptablesForwardRules = true");
        let judged = |config: &Config, legacy, rules: Vec<Rule>| {
            let chain = Dropping { legacy, ..chain(Hook::Forward, rules) };
            judge(&with(vec![chain], &["DOCKER-USER"]), Some(config), true).remove(0)
        };
        let offered = |finding: &Finding| {
            finding
                .remedy
                .as_ref()
                .is_some_and(|remedy| remedy.starts_with("set iptablesForwardRules = true"))
        };
        assert!(offered(&judged(&config(""), false, vec![])));
        assert!(!offered(&judged(&config(""), true, vec![])));
        let legacy = judged(&on, true, vec![]).remedy.unwrap();
        assert!(legacy.contains("iptables-nft alone"), "{legacy}");
        let missing = judged(&on, false, vec![]);
        assert!(missing.severity == Severity::Problem && missing.remedy.unwrap().contains("selvedge status"));
        let mut rules = forwarding::rules(Family::Ipv4, &on.cluster_pod_cidrs);
        assert_eq!(judged(&on, false, rules.clone()).severity, Severity::Ok);
        rules.pop();
        assert_eq!(judged(&on, false, rules).severity, Severity::Warning);
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
    }
}
