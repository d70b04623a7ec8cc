//! Rotates this node's key before its cryptoperiod ends, where that is the agent's task, and warns of a key that is about to
//! expire. It runs when the key has changed, and at each resync: the times are days apart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Name, Outcome, Triggers, Unmet};
use crate::agent::cryptoperiod::{Age, AgingKey, Schedule, is_due, problem};
use crate::agent::events::{NodeEvents, Said};
use crate::agent::keys::{KeysError, NewRotation};
use crate::agent::rotation::{self, BeginError};
use crate::agent::status::Refused;
use crate::config::Rotate;
use crate::duration;
use crate::resource::key_rotation::DEFAULT_DEADLINE;

/// Who asks for the rotation, for the record.
const BY: &str = "policy";

pub(in crate::agent) struct KeyAging {
    context: Arc<Context>,
    events: NodeEvents,
    said: Said,
    /// Epoch of the key that this controller began to rotate last, and when.
    begun: Option<(u64, Instant)>,
}

impl KeyAging {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        let events = NodeEvents::new(context.api.clone(), &context.config.node_name);
        Ok(Self { context, events, said: Said::new(Instant::now()), begun: None })
    }

    /// For metrics, status and Events.
    fn report(&mut self, schedule: &Schedule, key: AgingKey<'_>, now: Timestamp) {
        let (policy, metrics) = (&self.context.config.keys, &self.context.metrics);
        metrics.key_expiry.set(schedule.expires.as_second());
        metrics.key_due.set(match policy.rotate {
            Rotate::Auto => schedule.due.as_second(),
            Rotate::Manual => 0,
        });
        let problem = problem(policy, schedule, key, now);
        self.context.board.note(Name::KeyAge, problem.as_deref());
        let reason = match Age::of(schedule, key.created, now) {
            Age::Expiring => "KeyExpiring",
            Age::Expired => "KeyExpired",
            Age::Good | Age::Unknown => return,
        };
        let (Some(message), Ok(own)) = (problem, self.context.own()) else { return };
        // Another day, or another key, is another Event.
        let days = schedule.expires.duration_since(now).as_hours() / 24;
        let about = Refused { node: key.node.to_owned(), reason: reason.to_owned(), message };
        let (_, due) =
            self.said.take(&[(format!("{} {} {days}", own.uid, key.epoch), about)], Instant::now());
        for (_, about) in due {
            tracing::warn!(reason, message = about.message, "the age of this node's key");
            self.events.warn(&own.uid, &about, "RotateKeys");
        }
    }

    /// Begins a rotation, unless one runs.
    fn rotate(&mut self, epoch: u64) -> Outcome {
        if self.context.keys.lock().rotation().is_some() {
            return Ok(Vec::new());
        }
        let wanted = NewRotation {
            id: rotation::id().map_err(Unmet::failed)?,
            by: BY.into(),
            reason: format!("cryptoperiod of {}", duration::show(self.context.config.keys.cryptoperiod)),
            deadline: Duration::from_secs(DEFAULT_DEADLINE),
        };
        let begun = format!("rotation {} of the key of epoch {epoch}, which is due", wanted.id);
        match rotation::begin(&self.context, wanted) {
            Ok(()) => {
                self.begun = Some((epoch, Instant::now()));
                Ok(vec![begun])
            }
            Err(BeginError::Keys(KeysError::Running { .. })) => Ok(Vec::new()),
            Err(BeginError::Keys(error)) if !matches!(error, KeysError::Leftovers) => {
                Err(Unmet::failed(error))
            }
            Err(error) => Err(Unmet::waiting(format!("the key is due to be rotated: {error}"))),
        }
    }
}

impl Controller for KeyAging {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let context = Arc::clone(&self.context);
        let ((epoch, _), created) = {
            let keys = context.keys.lock();
            (keys.current(), keys.created())
        };
        let (policy, now) = (&context.config.keys, Timestamp::now());
        let key = AgingKey { node: &context.config.node_name, epoch, created };
        let schedule = Schedule::new(policy, key);
        self.report(&schedule, key, now);
        let attempted = self.begun.filter(|begun| begun.0 == epoch).map(|begun| begun.1.elapsed());
        match is_due(policy, &schedule, now, attempted) {
            true => self.rotate(epoch),
            false => Ok(Vec::new()),
        }
    }
}
