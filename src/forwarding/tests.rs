//! Rules of ours in iptables' table, read back by the real iptables-nft.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::config::Overrides;

const RANGES: [&str; 3] = ["10.244.0.0/16", "10.200.64.0/19", "fd00:10:244::/56"];

fn config() -> Config {
    let text =
        format!("nodeName = \"n1\"\nclusterPodCIDRs = {RANGES:?}\nserviceCIDRs = [\"10.96.0.0/12\"]\n");
    Config::parse(Path::new("x"), &text, &Overrides::default()).unwrap()
}

fn ranges() -> Vec<IpNet> {
    config().cluster_pod_cidrs
}

/// Runs a program of iptables-nft, as Debian has it.
fn iptables(program: &str, arguments: &str) -> String {
    let output = Command::new(format!("/usr/sbin/{program}")).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tests/setup.sh installs it"));
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What Docker makes of the table, with a chain of its own that drops.
fn docker(program: &str) {
    for command in [
        "-N DOCKER-USER",
        "-N DOCKER-FORWARD",
        "-P FORWARD DROP",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
        "-A DOCKER-USER -j RETURN",
    ] {
        iptables(program, command);
    }
}

const BOTH: [(&str, &str, Family); 2] = [
    ("iptables-nft", "iptables-nft-save", Family::Ipv4),
    ("ip6tables-nft", "ip6tables-nft-save", Family::Ipv6),
];

/// The rules that iptables shows of a chain, without its declaration.
fn shown(program: &str, chain: &str) -> Vec<String> {
    let lines = iptables(program, &format!("-S {chain}"));
    lines.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
}

fn expected(family: Family, chain: &str) -> Vec<String> {
    let nets: &[&str] = match family {
        Family::Ipv6 => &["fd00:10:244::/56"],
        _ => &["10.200.64.0/19", "10.244.0.0/16"],
    };
    let rule = |flag: &str, net: &str| {
        format!("-A {chain} {flag} {net} -m comment --comment \"{COMMENT}\" -j ACCEPT")
    };
    nets.iter().flat_map(|net| [rule("-s", net), rule("-d", net)]).collect()
}

fn dropped() -> Vec<Dropping> {
    dropping(&config()).unwrap()
}

#[test]
fn iptables_reads_and_saves_our_rules_and_its_own_stay() {
    selvedge_lab::isolated!(|| {
        for (program, save, _) in BOTH {
            docker(program);
            iptables(save, "-t filter");
        }
        assert_eq!(dropped(), FAMILIES.map(|family| Dropping { family, legacy: false }));
        let before = BOTH.map(|(_, save, _)| iptables(save, "-t filter").replace(['[', ']'], ""));
        assert_eq!(ensure(&ranges()).unwrap().0.len(), 6);
        assert!(ensure(&ranges()).unwrap().is_empty(), "run again it changes nothing");
        assert_eq!(dropped(), []);
        for (program, save, family) in BOTH {
            let mut wanted = expected(family, DOCKER_USER);
            wanted.push("-A DOCKER-USER -j RETURN".into());
            assert_eq!(shown(program, DOCKER_USER), wanted);
            assert_eq!(shown(program, FORWARD).len(), 2);
            let saved = iptables(save, "-t filter");
            assert!(wanted.iter().all(|rule| saved.contains(rule.as_str())), "{saved}");
        }
        assert_eq!(kept().unwrap().len(), 6);
        ensure(&[]).unwrap();
        let after = BOTH.map(|(_, save, _)| iptables(save, "-t filter").replace(['[', ']'], ""));
        let rules = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
        };
        assert_eq!(before.each_ref().map(|text| rules(text)), after.each_ref().map(|text| rules(text)));
        assert_eq!(kept().unwrap(), []);
    });
}

#[test]
fn without_dockers_chain_they_are_in_front_of_forward_and_move_once_it_comes() {
    selvedge_lab::isolated!(|| {
        for (program, _, family) in BOTH {
            iptables(program, "-P FORWARD DROP");
            iptables(program, "-A FORWARD -i docker0 -j ACCEPT");
            ensure(&ranges()).unwrap();
            assert_eq!(shown(program, FORWARD)[..expected(family, FORWARD).len()], expected(family, FORWARD));
            docker_comes(program);
            ensure(&ranges()).unwrap();
            assert_eq!(shown(program, DOCKER_USER), expected(family, DOCKER_USER));
            let forward = shown(program, FORWARD);
            assert_eq!(forward, ["-A FORWARD -j DOCKER-USER", "-A FORWARD -i docker0 -j ACCEPT"]);
            // A chain that nothing leads to is none.
            iptables(program, "-D FORWARD -j DOCKER-USER");
            ensure(&ranges()).unwrap();
            assert_eq!(shown(program, DOCKER_USER), [""; 0]);
            assert_eq!(shown(program, FORWARD)[..expected(family, FORWARD).len()], expected(family, FORWARD));
        }
    });
}

fn docker_comes(program: &str) {
    iptables(program, "-N DOCKER-USER");
    iptables(program, "-I FORWARD -j DOCKER-USER");
}

#[test]
fn others_may_put_rules_in_front_of_ours_but_none_that_ends_the_chain() {
    selvedge_lab::isolated!(|| {
        let (program, _, family) = BOTH[0];
        docker(program);
        ensure(&ranges()).unwrap();
        let theirs = "-I DOCKER-USER -s 10.244.9.9/32 -j DROP";
        iptables(program, theirs);
        assert!(ensure(&ranges()).unwrap().is_empty(), "an administrator's rule stays in front");
        iptables(program, "-I DOCKER-USER -j RETURN");
        assert!(!ensure(&ranges()).unwrap().is_empty());
        let wanted = expected(family, DOCKER_USER);
        assert_eq!(shown(program, DOCKER_USER)[..wanted.len()], wanted);
        // One of ours deleted, or changed.
        for command in ["-D DOCKER-USER 1", "-R DOCKER-USER 2 -s 10.1.0.0/16 -j ACCEPT"] {
            iptables(program, command);
            ensure(&ranges()).unwrap();
            assert_eq!(shown(program, DOCKER_USER)[..wanted.len()], wanted, "{command}");
        }
        assert_eq!(kept().unwrap().len(), 4);
    });
}

/// netfilter-persistent, for example, saves all rules and restores them at boot, in iptables' own form.
#[test]
fn what_iptables_saved_and_restored_of_ours_is_ours() {
    selvedge_lab::isolated!(|| {
        let (program, save, family) = BOTH[0];
        docker(program);
        ensure(&ranges()).unwrap();
        let saved = iptables(save, "-t filter");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), saved).unwrap();
        iptables("iptables-nft-restore", file.path().to_str().unwrap());
        assert_eq!(kept().unwrap().len(), 4);
        ensure(&ranges()).unwrap();
        let mut wanted = expected(family, DOCKER_USER);
        wanted.push("-A DOCKER-USER -j RETURN".into());
        assert_eq!(shown(program, DOCKER_USER), wanted);
        ensure(&[]).unwrap();
        assert_eq!(shown(program, DOCKER_USER), ["-A DOCKER-USER -j RETURN"]);
    });
}

#[test]
fn without_the_table_there_is_nothing_to_do() {
    selvedge_lab::isolated!(|| {
        assert!(ensure(&ranges()).unwrap().is_empty());
        assert_eq!(dropped(), []);
        assert!(nft::tables(Family::Ipv4).unwrap().is_empty(), "none is made");
    });
}

#[test]
fn ranges_become_as_few_rules_as_can_be_in_any_order() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
    let (one, other) = (nets(&["10.1.0.0/16", "10.0.0.0/16"]), nets(&["10.0.0.0/15", "fd00::/56"]));
    assert_eq!(rules(Family::Ipv4, &one), rules(Family::Ipv4, &other));
    assert_eq!((rules(Family::Ipv4, &one).len(), rules(Family::Ipv6, &other).len()), (2, 2));
}
