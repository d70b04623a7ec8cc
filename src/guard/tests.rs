//! The desired table, without a kernel.

use proptest::prelude::*;

use super::*;
use crate::kernel::nft::{Expression, Hook, Rule, Verdict};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn some_nets() -> impl Strategy<Value = Vec<IpNet>> {
    let v4 = (any::<u32>(), 0_u8..=32)
        .prop_map(|(bits, length)| IpNet::new_assert(std::net::Ipv4Addr::from(bits).into(), length));
    let v6 = (any::<u128>(), 0_u8..=128)
        .prop_map(|(bits, length)| IpNet::new_assert(std::net::Ipv6Addr::from(bits).into(), length));
    proptest::collection::vec(prop_oneof![v4, v6], 0..5)
}

fn some_config() -> impl Strategy<Value = GuardConfig> {
    (some_nets(), some_nets(), some_nets()).prop_map(|(cluster_pod_cidrs, service_cidrs, trusted_sources)| {
        GuardConfig { cluster_pod_cidrs, service_cidrs, trusted_sources }
    })
}

/// The same ranges, backwards, each twice, and once with the bits of a host in it.
fn rewritten(nets: &[IpNet]) -> Vec<IpNet> {
    let untidy = |net: &IpNet| IpNet::new_assert(net.broadcast(), net.prefix_len());
    nets.iter().rev().flat_map(|net| [net.trunc(), untidy(net)]).collect()
}

proptest! {
    #[test]
    fn the_table_depends_on_the_ranges_alone(config in some_config()) {
        let other = GuardConfig {
            cluster_pod_cidrs: rewritten(&config.cluster_pod_cidrs),
            service_cidrs: rewritten(&config.service_cidrs),
            trusted_sources: rewritten(&config.trusted_sources),
        };
        prop_assert_eq!(table(&config), table(&other));
        prop_assert_eq!(table(&config), table(&config));
    }

    /// Nothing but our devices, and trusted sources where there are any, is ever accepted.
    #[test]
    fn what_is_accepted_is_what_was_asked_for(config in some_config()) {
        let table = table(&config);
        let accepts = |rule: &&Rule| rule.expressions.contains(&Expression::Verdict(Verdict::Accept));
        for name in ["leaving", "arriving"] {
            let accepting = table.chains[name].rules.iter().filter(accepts).count();
            let ranges = config.cluster_pod_cidrs.iter().chain(&config.service_cidrs);
            let mut families: Vec<bool> = ranges.map(|net| net.addr().is_ipv4()).collect();
            // IPv4 ranges have a mapped form.
            if families.contains(&true) {
                families.push(false);
            }
            let trusted = |ipv4: bool| {
                families.contains(&ipv4) && config.trusted_sources.iter().any(|net| net.addr().is_ipv4() == ipv4)
            };
            let expected = 2 + [true, false].into_iter().filter(|ipv4| trusted(*ipv4)).count();
            prop_assert_eq!(accepting, expected);
        }
    }
}

#[test]
fn it_stands_behind_all_nat_and_before_any_is_undone() {
    let table = table(&GuardConfig { cluster_pod_cidrs: nets(&["10.244.0.0/16"]), ..GuardConfig::default() });
    let base = |name: &str| table.chains[name].base.clone().unwrap();
    assert_eq!((base("leaving").hook, base("leaving").priority), (Hook::Postrouting, 300));
    assert_eq!((base("arriving").hook, base("arriving").priority), (Hook::Prerouting, -300));
    assert!(table.counters.contains("leaving4") && table.counters.contains("arriving4-quoted"));
}
