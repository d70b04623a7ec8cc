//! The CNI plugin and what it needs to know, installed once all that pods need is in place.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Name, Outcome, Trigger, Triggers, Unmet};
use crate::agent::routing;
use crate::mesh::node_object::OwnNode;
use crate::pod;
use crate::pod::node::{NodeInfo, is_ready, mark_ready};

/// Name of the network in the CNI configuration.
const NETWORK: &str = "selvedge";

pub(in crate::agent) struct Plugin {
    context: Arc<Context>,
}

impl Plugin {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context })
    }

    fn info(&self, own: &OwnNode) -> Result<NodeInfo, Unmet> {
        let config = &self.context.config;
        Ok(NodeInfo {
            node_name: own.name.clone(),
            node_uid: own.uid.clone(),
            pod_cidrs: own.pod_cidrs.clone(),
            cluster_pod_cidrs: config.cluster_pod_cidrs.clone(),
            service_cidrs: self.context.service_ranges.get().to_vec(),
            trusted_sources: config.trusted_sources.clone(),
            mtu: self.context.mtu(&own.internal).map_err(Unmet::too_small)?,
            datapath: routing::datapath(config.datapath),
            tunnel_port: Some(config.listen_port),
        })
    }

    /// Pods may come already, and find what they need.
    fn is_installed(&self, info: &NodeInfo) -> bool {
        let paths = &self.context.paths;
        is_ready(paths) && NodeInfo::load(paths).ok().as_ref() == Some(info)
    }

    fn install(&self, info: &NodeInfo) -> anyhow::Result<Vec<String>> {
        let (paths, cni) = (&self.context.paths, &self.context.config.cni);
        let mut changes = Vec::new();
        if NodeInfo::load(paths).ok().as_ref() != Some(info) {
            info.save(paths)?;
            self.context.bus.post(Trigger::NodeFile);
            changes.push("node.json".to_owned());
        }
        changes.extend(pod::install(paths, &cni.bin_dir, &cni.conf_dir, NETWORK)?);
        if !is_ready(paths) {
            mark_ready(paths)?;
            changes.push("ready for pods".to_owned());
        }
        Ok(changes)
    }
}

impl Controller for Plugin {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let own = self.context.own()?;
        let info = self.info(&own)?;
        if !self.is_installed(&info) {
            if !self.context.service_ranges.is_known() {
                return Err(Unmet::waiting("the CNI plugin waits for the list of ServiceCIDRs"));
            }
            let behind = self.context.board.behind(Some(Name::Pods));
            if !behind.is_empty() {
                let labels: Vec<_> = behind.iter().map(|name| name.label()).collect();
                return Err(Unmet::waiting(format!("the CNI plugin waits for {}", labels.join(", "))));
            }
        }
        self.install(&info).map_err(|error| Unmet::failed(format!("{error:#}")))
    }
}
