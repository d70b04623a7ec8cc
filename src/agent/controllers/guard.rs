//! The nftables table that fails closed. It follows from the configuration and the ranges of Services.

use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers, Unmet};
use crate::guard;

pub(in crate::agent) struct Guard {
    context: Arc<Context>,
}

impl Guard {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context })
    }
}

impl Controller for Guard {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        guard::ensure(&self.context.guard()).map(|changes| changes.0).map_err(Unmet::failed)
    }
}
