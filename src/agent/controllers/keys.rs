//! This node's own keys, kept ahead of what its Node object shows.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};

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
        let changes = self.context.keys.lock().keep_ahead(&own.annotations).map_err(Unmet::failed)?;
        if !changes.is_empty() {
            self.context.bus.post(Trigger::Keys);
        }
        Ok(changes)
    }
}
