//! Stale rules of a stopped kube-proxy: once this agent serves Services, it removes them with the operator's consent
//! (`removeKubeProxyRules`), and reports them otherwise.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers, Unmet};
use crate::kernel::kube_proxy::{self, IPVS_DEVICE, Rules};

pub(in crate::agent) struct KubeProxy {
    context: Arc<Context>,
}

impl KubeProxy {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context })
    }
}

impl Controller for KubeProxy {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let role = self.context.role.get();
        if role.serves != Some(true) || !role.is_alone {
            return Ok(Vec::new());
        }
        let ipvs = self.context.facts.get().link(IPVS_DEVICE).is_some();
        let rules = Rules::read(ipvs).map_err(Unmet::failed)?;
        let changes = match self.context.config.remove_kube_proxy_rules {
            true => kube_proxy::remove().map_err(Unmet::failed)?.0,
            false if rules.nftables || rules.iptables => {
                return Err(Unmet::waiting(
                    "kube-proxy has stopped and left rules in the kernel: set `removeKubeProxyRules = true`, or run \
                     `kube-proxy --cleanup` on this node",
                ));
            }
            false => Vec::new(),
        };
        match rules.ipvs {
            true => Err(Unmet::waiting(format!(
                "kube-proxy has stopped and left the device {IPVS_DEVICE}: run `kube-proxy --cleanup` on this node"
            ))),
            false => Ok(changes),
        }
    }
}
