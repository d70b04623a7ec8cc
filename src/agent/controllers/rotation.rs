//! Carries out the rotation of this node's keys. It runs when something that a phase waits for may have changed, and every
//! second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::task::JoinHandle;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::keys::TunnelKeys;
use crate::agent::session::Session;
use crate::local::Client;
use crate::mesh::annotation;
use crate::observe::metrics::RotationOutcome;
use crate::tunnel::api::DeviceStatus;

/// Shortest interval at which the tunnel is asked for its status while nothing changes.
const LOOK: Duration = Duration::from_secs(1);
/// With many peers the interval is this times their number, as the status grows with it: 5 s with 5,000 peers.
const LOOK_FOR_EACH_PEER: Duration = Duration::from_millis(1);
/// After a step: the time that the tunnel and the Node object need to follow.
const FOLLOW: Duration = Duration::from_millis(100);

pub(in crate::agent) struct KeyRotation {
    context: Arc<Context>,
    client: Client,
    started: Instant,
    /// Wakes this controller.
    timer: Option<JoinHandle<()>>,
}

impl KeyRotation {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        let client = Client::new(&context.paths.tunnel_socket(&context.config.interface));
        Ok(Self { context, client, started: Instant::now(), timer: None })
    }

    /// The tunnel's own keys and sessions; none while it does not answer.
    async fn tunnel(&self, from: u64, to: u64) -> Option<TunnelKeys> {
        let Session::Open(life) = self.context.session.get() else { return None };
        let status: DeviceStatus = self.client.get("/v1/status").await.ok()?;
        (self.context.session.get() == Session::Open(life)).then(|| TunnelKeys::of(life, &status, from, to))
    }

    fn measure(&self) {
        let (keys, metrics) = (self.context.keys.lock(), &self.context.metrics);
        metrics.key_epoch.set(i64::try_from(keys.current().0).unwrap_or(i64::MAX));
        metrics.key_created.set(keys.created().as_second());
        metrics.key_rotating.set(keys.rotation().is_some().into());
        metrics.audit_failing.set(keys.audit_problem().is_some().into());
    }

    /// After a step of a rotation.
    fn count_ended(&self, ran: bool) {
        let keys = self.context.keys.lock();
        if let Some(ended) = keys.last().filter(|_| ran && keys.rotation().is_none()) {
            let outcome = format!("{:?}", ended.outcome).to_lowercase();
            self.context.metrics.key_rotations.get_or_create(&RotationOutcome { outcome }).inc();
        }
    }

    fn look_again(&mut self, after: Duration) {
        let bus = self.context.bus.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            bus.post(Trigger::Rotation);
        });
        if let Some(before) = self.timer.replace(timer) {
            before.abort();
        }
    }
}

impl Controller for KeyRotation {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let (rotation, has_leftovers) = {
            let keys = self.context.keys.lock();
            (keys.rotation().cloned(), keys.has_leftovers())
        };
        self.measure();
        if rotation.is_none() && !has_leftovers {
            return Ok(Vec::new());
        }
        let (from, to) = rotation.as_ref().map_or((0, 0), |rotation| (rotation.from, rotation.to));
        let tunnel = self.tunnel(from, to).await;
        if let (Some(rotation), Some(tunnel)) = (&rotation, &tunnel) {
            self.context.confirmations.set(tunnel.confirmations(rotation));
        }
        let own = self.context.view.own.get(&self.context.config.node_name).ok();
        let shown = own.and_then(|own| annotation::parse(&own.annotations).ok().flatten());
        let step = self.context.keys.lock().step(
            Timestamp::now(),
            self.started.elapsed(),
            shown.as_ref(),
            tunnel.as_ref(),
        );
        let done = step.map_err(Unmet::failed)?;
        let Some(done) = done else {
            if rotation.is_some() {
                let peers = tunnel.map_or(0, |tunnel| tunnel.peers.len());
                self.look_again(LOOK.max(LOOK_FOR_EACH_PEER * u32::try_from(peers).unwrap_or(u32::MAX)));
            }
            return Ok(Vec::new());
        };
        if let Some(rotation) = &rotation {
            tracing::info!(id = rotation.id, from, to, done, "key rotation");
        }
        self.context.bus.post(Trigger::Keys);
        self.count_ended(rotation.is_some());
        self.look_again(FOLLOW);
        Ok(vec![done])
    }
}
