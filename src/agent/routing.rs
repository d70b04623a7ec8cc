//! What routes, rules and addresses follow from, as the context has it.

use ipnet::IpNet;

use super::context::Context;
use crate::config::Services;
use crate::fabric::RoutingConfig;
use crate::kernel::nft::Ip;
use crate::pod::lease::Leases;
use crate::pod::node::{Datapath, NodeInfo};

/// Without this node's object, its pod CIDRs are those of the last start.
pub(super) fn config(context: &Context) -> RoutingConfig {
    let remembered = || NodeInfo::load(&context.paths).ok().map(|info| info.pod_cidrs);
    let own = context.own().ok().map(|own| own.pod_cidrs.clone());
    let facts = context.facts.get();
    RoutingConfig {
        cluster_pod_cidrs: context.config.cluster_pod_cidrs.clone(),
        pod_cidrs: own.or_else(remembered).unwrap_or_default(),
        node_addresses: context.egress_members.get().map(|members| members.to_vec()).unwrap_or_default(),
        service_cidrs: match context.config.services {
            Services::On | Services::Auto => service_cidrs(context),
            Services::Off => Vec::new(),
        },
        interface: context.config.interface.clone(),
        tunnel: facts.link(&context.config.interface).map(|link| link.index),
        routed: has_routed(context),
    }
}

/// Whoever may write ServiceCIDRs cannot have routes of a family that the node may not have at all.
fn service_cidrs(context: &Context) -> Vec<IpNet> {
    let config = &context.config;
    let has_family = |range: &IpNet| {
        let mut pods = config.cluster_pod_cidrs.iter();
        config.service_cidrs.contains(range) || pods.any(|net| Ip::of(net.addr()) == Ip::of(range.addr()))
    };
    context.service_ranges.get().iter().filter(|range| has_family(range)).copied().collect()
}

/// Whether there are pods without a bridge, or will be. Leases that can't be read may be theirs.
fn has_routed(context: &Context) -> bool {
    if datapath(context.config.datapath) == Datapath::Routed {
        return true;
    }
    Leases::new(context.paths.leases()).list().is_ok_and(|(leases, unreadable)| {
        !unreadable.is_empty() || leases.iter().any(|lease| lease.datapath == Datapath::Routed)
    })
}

/// The configured datapath as the plugin writes it.
pub(super) fn datapath(configured: crate::config::Datapath) -> Datapath {
    match configured {
        crate::config::Datapath::Bridge => Datapath::Bridge,
        crate::config::Datapath::Routed => Datapath::Routed,
    }
}
