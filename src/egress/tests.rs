//! The desired table, without a kernel.

use super::*;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn config() -> EgressConfig {
    EgressConfig {
        tunnel: "selvedge0".into(),
        listen_port: 51830,
        pod_cidrs: nets(&["10.244.1.0/24", "fd00:1::/64"]),
        fabric_addresses: vec!["10.244.1.1".parse().unwrap(), "fd00:1::1".parse().unwrap()],
        own_addresses: vec!["192.0.2.2".parse().unwrap()],
        cluster_pod_cidrs: nets(&["10.244.0.0/16", "fd00::/16"]),
        service_cidrs: nets(&["10.96.0.0/12", "fd96::/108"]),
        non_masquerade_cidrs: nets(&["172.16.0.0/12"]),
        member_addresses: vec!["192.0.2.3".parse().unwrap(), "192.0.2.4".parse().unwrap()],
    }
}

#[test]
fn the_table_depends_on_the_ranges_alone() {
    let mut other = config();
    other.member_addresses.reverse();
    other.cluster_pod_cidrs.reverse();
    other.cluster_pod_cidrs.extend(nets(&["10.244.7.0/24"]));
    other.fabric_addresses.reverse();
    assert_eq!(table(&config()), table(&other));
    other.member_addresses.pop();
    assert_ne!(table(&config()), table(&other));
}

#[test]
fn strangers_are_translated_before_our_devices_are_let_go() {
    let table = table(&config());
    let rules = &table.chains["source"].rules;
    let ours = rules.iter().position(|rule| rule.comment.is_some()).unwrap();
    assert_eq!((ours, rules.len()), (2, 5));
    assert_eq!(table.sets["internal4"].elements.len(), 4, "two member nodes in one range");
}

#[test]
fn a_family_without_fabric_address_translates_no_strangers() {
    let mut config = config();
    config.fabric_addresses.pop();
    assert!(!table(&config).counters.contains("foreign6"));
    assert!(table(&config).counters.contains("masqueraded6"));
}
