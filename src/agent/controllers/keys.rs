//! This node's own keys, kept ahead of what its Node object shows.

use std::sync::Arc;

use selvedge_keys::PublicKey;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::mesh::revoked::RevokedEntry;

pub(in crate::agent) struct OwnKeys {
    context: Arc<Context>,
}

impl OwnKeys {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context })
    }
}

impl Controller for OwnKeys {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let own = self.context.view.own.get(&self.context.config.node_name)?;
        // Until they are known, what this node would publish is looked at for nothing else.
        let revoked = self.context.revoked.get().unwrap_or_default();
        let bar = revoked.bar(&own.uid).map(|(_, bar)| bar);
        let is_revoked = |key: &PublicKey| bar.is_none() && revoked.has(key);
        let changes =
            self.context.keys.lock().keep_ahead(&own.annotations, is_revoked).map_err(Unmet::failed)?;
        if !changes.is_empty() {
            self.context.bus.post(Trigger::Keys);
        }
        match bar {
            // A new key would not be believed before.
            Some(RevokedEntry { node, by, reason, .. }) => {
                let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                let remedy = format!("`selvedge keys readmit --node {node}` lets the node in again");
                Err(Unmet::failed(format!("the keys of this node were revoked by {by}{reason}; {remedy}")))
            }
            None => Ok(changes),
        }
    }
}
