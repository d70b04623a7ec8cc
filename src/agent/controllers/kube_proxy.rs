//! Rules that kube-proxy has left in the kernel: once this agent serves and kube-proxy is gone, they are taken away where the
//! operator has agreed to that, and else reported. They are older than every change since, and some of them still decide.

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
        let turn = self.context.turn.get();
        if turn.serves != Some(true) || !turn.is_alone {
            return Ok(Vec::new());
        }
        let ipvs = self.context.facts.get().link(IPVS_DEVICE).is_some();
        let rules = Rules::read(ipvs).map_err(Unmet::failed)?;
        let changes = match self.context.config.remove_kube_proxy_rules {
            true => kube_proxy::remove().map_err(Unmet::failed)?.0,
            false if rules.nftables || rules.iptables => {
                return Err(Unmet::waiting(
                    "kube-proxy is gone and its rules are not: `removeKubeProxyRules = true` takes them away, \
                     and so does `kube-proxy --cleanup`",
                ));
            }
            false => Vec::new(),
        };
        match rules.ipvs {
            true => Err(Unmet::waiting(format!(
                "kube-proxy is gone and its device {IPVS_DEVICE} is not: `kube-proxy --cleanup` takes it away"
            ))),
            false => Ok(changes),
        }
    }
}
