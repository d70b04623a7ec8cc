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
    assert_eq!((ours, rules.len()), (4, 7));
    assert_eq!(table.sets["internal4"].elements.len(), 3);
    assert_eq!(table.sets["members4"].elements.len(), 2, "a member node is an element of its own");
}

#[test]
fn a_family_without_fabric_address_translates_no_strangers() {
    let mut config = config();
    config.fabric_addresses.pop();
    assert!(!table(&config).counters.contains("foreign6"));
    assert!(table(&config).counters.contains("masqueraded6"));
}

#[test]
fn only_members_that_come_or_go_are_changed() {
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let before = addresses(&["192.0.2.3", "192.0.2.4", "2001:db8::3", "192.0.2.3"]);
    let after = addresses(&["192.0.2.5", "2001:db8::3", "192.0.2.4", "2001:db8::4"]);
    let mut expected = Update::new(Family::Inet, TABLE);
    expected.delete("members4", before[0]).insert("members4", after[0]).insert("members6", after[3]);
    assert_eq!(members_update(&before, &after), expected);
    assert!(members_update(&before, &before[..3]).is_empty(), "one of two that are the same");
}
