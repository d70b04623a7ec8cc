//! The other nodes: what was observed of them, what is believed, and what has to be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Client, ResourceExt as _};

use super::{Start, blocking, in_time};
use crate::agent::events::Reporting;
use crate::agent::parts::{Name, Parts};
use crate::agent::status::Refused;
use crate::agent::watch::Objects;
use crate::config::Config;
use crate::mesh::node_object::{self, OwnNode};
use crate::mesh::record::Records;
use crate::mesh::resolve::{self, Confirmed, Fabric, ObservedNode, Resolution, resolve, tunnel_peers};
use crate::tunnel::api::PeerConfig;

/// Above this number of questions one list of all Nodes is cheaper.
const MOST_GETS: usize = 16;

/// What is known and believed of the other nodes.
pub(super) struct Members {
    records: Records,
    confirmed: BTreeMap<String, Confirmed>,
    resolution: Resolution,
    reporting: Reporting,
}

impl Members {
    pub(super) fn open(start: &Start, reporting: Reporting) -> anyhow::Result<Self> {
        let (records, quarantined) = Records::open(&start.paths.records())?;
        if let Some(quarantined) = quarantined {
            tracing::error!(
                path = %quarantined.path.display(), damage = quarantined.damage,
                "the accepted records were damaged and have been moved aside; every claim is decided anew"
            );
        }
        let resolution = Resolution { records: records.clone(), ..Resolution::default() };
        Ok(Self { records, confirmed: BTreeMap::new(), resolution, reporting })
    }

    /// Decides anew whom to believe. False when what is believed could not be established or put on disk; then all
    /// stays as it was.
    pub(super) async fn update(
        &mut self,
        start: &Start,
        own: &OwnNode,
        nodes: &Objects<PartialObjectMeta<Node>>,
        parts: &mut Parts,
    ) -> bool {
        let fabric = fabric(&start.config, own, start.keys.all());
        let present: BTreeSet<&String> = nodes.keys().collect();
        self.confirmed.retain(|name, _| present.contains(name));
        let unseen = self.unseen(own, nodes);
        let mut result = self.ask(&start.client, nodes, unseen).await;
        let mut resolution = resolve(&fabric, &self.observed(nodes), &self.records);
        if result.is_ok() && !resolution.confirm.is_empty() {
            result = self.ask(&start.client, nodes, std::mem::take(&mut resolution.confirm)).await;
            resolution = resolve(&fabric, &self.observed(nodes), &self.records);
        }
        let asked = parts.settle(Name::Mesh, result.map(|()| Vec::new()));
        if !self.save(start, &resolution, parts).await {
            return false;
        }
        self.resolution = resolution;
        let refusals = self.resolution.refusals.iter().map(|refusal| (refusal.uid.clone(), refused(refusal)));
        self.reporting.report(&refusals.collect::<Vec<_>>());
        asked
    }

    /// Nodes of which the addresses are not known: pods must not reach them in the clear even before they join.
    fn unseen(&self, own: &OwnNode, nodes: &Objects<PartialObjectMeta<Node>>) -> Vec<String> {
        let peers: BTreeSet<&String> = self.resolution.peers.iter().map(|peer| &peer.name).collect();
        let unseen = |(name, node): &(&String, &PartialObjectMeta<Node>)| match self.confirmed.get(*name) {
            Some(seen) if seen.uid != node.uid().unwrap_or_default() => true,
            // Not a peer yet: its object is still being filled in.
            Some(seen) => {
                !peers.contains(name) && seen.asked_at != node.resource_version().unwrap_or_default()
            }
            None => true,
        };
        let others = nodes.iter().filter(|(name, _)| **name != own.name);
        others.filter(unseen).map(|(name, _)| name.clone()).collect()
    }

    fn observed(&self, nodes: &Objects<PartialObjectMeta<Node>>) -> Vec<ObservedNode> {
        let observed = |(name, node): (&String, &PartialObjectMeta<Node>)| ObservedNode {
            name: name.clone(),
            uid: node.uid().unwrap_or_default(),
            resource_version: node.resource_version().unwrap_or_default(),
            annotations: node.annotations().clone(),
            confirmed: self.confirmed.get(name).cloned(),
        };
        nodes.iter().map(observed).collect()
    }

    /// Reads the whole objects of `names`, one by one or, if they are many, all at once.
    async fn ask(
        &mut self,
        client: &Client,
        nodes: &Objects<PartialObjectMeta<Node>>,
        names: Vec<String>,
    ) -> Result<(), String> {
        let api: Api<Node> = Api::all(client.clone());
        let objects = if names.len() > MOST_GETS {
            in_time(api.list(&ListParams::default())).await?.items
        } else {
            let answers = try_join_all(names.iter().map(|name| api.get_opt(name)));
            in_time(answers).await?.into_iter().flatten().collect()
        };
        for object in objects {
            let name = object.name_any();
            if !names.contains(&name) {
                continue;
            }
            let Some(asked_at) = nodes.get(&name).and_then(kube::ResourceExt::resource_version) else {
                continue;
            };
            self.confirmed.insert(name, confirmed(&object, asked_at));
        }
        Ok(())
    }

    async fn save(&mut self, start: &Start, resolution: &Resolution, parts: &mut Parts) -> bool {
        if resolution.records == self.records {
            return parts.all_well(&[Name::Records]);
        }
        let (records, path) = (resolution.records.clone(), start.paths.records());
        let result = blocking(move || records.save(&path)).await;
        let saved = parts.settle(Name::Records, result.map(|()| Vec::new()));
        if saved {
            self.records = resolution.records.clone();
        }
        saved
    }

    /// The peers, for the tunnel.
    pub(super) fn tunnel_peers(&self, keepalive: Option<u16>) -> Vec<PeerConfig> {
        tunnel_peers(&self.resolution, keepalive)
    }

    /// Every address of every other node, peer or not: pods reach them by the tunnel or not at all.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let seen = self.confirmed.values().flat_map(|seen| &seen.node_addresses);
        let held = self.resolution.records.nodes.values().flat_map(|record| &record.node_addresses);
        let addresses: BTreeSet<IpAddr> = seen.chain(held).copied().collect();
        addresses.into_iter().collect()
    }

    /// For the status.
    pub(super) fn refused(&self) -> Vec<Refused> {
        self.resolution.refusals.iter().map(refused).collect()
    }
}

fn refused(refusal: &crate::mesh::refusal::Refusal) -> Refused {
    Refused {
        node: refusal.node.clone(),
        reason: refusal.reason.label().to_owned(),
        message: refusal.reason.to_string(),
    }
}

fn confirmed(node: &Node, asked_at: String) -> Confirmed {
    // What lies outside the cluster's range is for `resolve` to refuse; what is no CIDR confirms nothing.
    let anywhere = ["0.0.0.0/0", "::/0"].map(|any| any.parse().expect("a valid prefix"));
    let mut pod_cidrs = node_object::pod_cidrs(&node.name_any(), node, &anywhere).unwrap_or_default();
    let mut node_addresses = node_object::addresses(node, "InternalIP");
    pod_cidrs.sort_unstable();
    node_addresses.sort_unstable();
    Confirmed { uid: node.uid().unwrap_or_default(), asked_at, pod_cidrs, node_addresses }
}

fn fabric(config: &Config, own: &OwnNode, keys: Vec<selvedge_keys::PublicKey>) -> Fabric {
    let has = |ipv4: bool| own.internal.iter().chain(&own.external).any(|address| address.is_ipv4() == ipv4);
    Fabric {
        own: resolve::OwnClaims {
            name: own.name.clone(),
            keys,
            pod_cidrs: own.pod_cidrs.clone(),
            node_addresses: own.internal.clone(),
            location: config.location.clone(),
        },
        ranges: config.ranges(),
        ipv4: has(true),
        ipv6: has(false),
    }
}
