//! Carries out what an operator asks about this node's keys through the API, and answers in the status of the same object.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Api;
use kube::api::{PartialObjectMeta, Patch};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::agent::api::{Written, patching, unless_changed};
use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::keys::{Confirmations, Ended, Keys, KeysError, NewRotation};
use crate::agent::rotation::{self, BeginError};
use crate::agent::view::store::{Key, Subscription};
use crate::resource::KeyRotation;
use crate::resource::key_rotation::{Asked, KeyRotationSpec, KeyRotationState, KeyRotationStatus, NAMED};
use selvedge_keys::rotation::Rotation;

/// Shortest interval between two writes that only count peers. With 5,000 Nodes rotated 25 at a time that is at most 5 writes a
/// second.
const COUNT: Duration = Duration::from_secs(5);

pub(in crate::agent) struct KeyRequests {
    context: Arc<Context>,
    objects: Subscription<Asked>,
    /// When the status was last written.
    written: Option<Instant>,
    /// Wakes this controller.
    timer: Option<JoinHandle<()>>,
}

impl KeyRequests {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        let bus = context.bus.clone();
        let wake = move || bus.post(Trigger::KeyRequest);
        let objects = context.view.key_rotations.subscribe(PartialEq::ne, wake);
        Ok(Self { context, objects, written: None, timer: None })
    }

    /// Whether it is too early to write `status` in place of `before`: only the peers were counted again.
    fn is_early(&mut self, status: &KeyRotationStatus, before: Option<&KeyRotationStatus>) -> bool {
        let Some(before) = before else { return false };
        let without = |status: &KeyRotationStatus| KeyRotationStatus {
            peers: None,
            confirmed: None,
            waiting_for: Vec::new(),
            ..status.clone()
        };
        let since = self.written.map(|written| written.elapsed());
        let Some(rest) = since.and_then(|since| COUNT.checked_sub(since)) else { return false };
        if without(status) != without(before) {
            return false;
        }
        if self.timer.as_ref().is_none_or(JoinHandle::is_finished) {
            let bus = self.context.bus.clone();
            self.timer = Some(tokio::spawn(async move {
                tokio::time::sleep(rest).await;
                bus.post(Trigger::KeyRequest);
            }));
        }
        true
    }

    async fn write(&self, version: String, status: &KeyRotationStatus) -> Result<Written, String> {
        let name = self.context.config.node_name.clone();
        let what = format!("status of the KeyRotation: {:?}", status.state);
        // Another object of the same name has another version.
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
        let write = |client| async move {
            let objects: Api<PartialObjectMeta<KeyRotation>> = Api::all(client);
            unless_changed(objects.patch_status(&name, &patching(), &Patch::Merge(&patch)).await, what)
        };
        self.context.api.ask(write).await
    }
}

impl Controller for KeyRequests {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        self.objects.take();
        let key = Key::name(&self.context.config.node_name);
        let Some(object) = self.context.view.key_rotations.get(&key) else { return Ok(Vec::new()) };
        let asked = object.value;
        if asked.answer().is_some_and(|status| status.state.is_final()) {
            return Ok(Vec::new());
        }
        let Some(status) = answer(&self.context, &asked) else { return Ok(Vec::new()) };
        if asked.status.as_ref() == Some(&status) || self.is_early(&status, asked.answer()) {
            return Ok(Vec::new());
        }
        let written = self.write(object.version, &status).await.map_err(Unmet::failed)?;
        self.written = Some(Instant::now());
        match written {
            Written::Done(what) => Ok(vec![what]),
            Written::Conflict => Err(Unmet::waiting("the KeyRotation changed during a write, retrying")),
        }
    }
}

/// Does what is asked for, as far as that is possible now. None while there is nothing to say.
fn answer(context: &Context, asked: &Asked) -> Option<KeyRotationStatus> {
    let spec = &asked.spec;
    let known = known(&context.keys.lock(), asked, &context.confirmations.get());
    match (known, &spec.abort) {
        (Some(Known::Over(status)), _) => Some(status),
        (Some(Known::Running(status)), None) => Some(status),
        (Some(Known::Running(mut status)), Some(abort)) => {
            if status.state != KeyRotationState::Aborting {
                let aborted =
                    rotation::take_back(context, &spec.operation, &abort.requested_by, &abort.reason);
                match aborted {
                    Ok(()) => status.state = KeyRotationState::Aborting,
                    Err(error) => status.message = format!("not aborted: {error}"),
                }
            }
            Some(status)
        }
        (None, Some(_)) => Some(KeyRotationStatus {
            operation: spec.operation.clone(),
            state: KeyRotationState::Aborted,
            message: "aborted before it began".into(),
            ended: Some(now()),
            ..KeyRotationStatus::default()
        }),
        (None, None) if spec.hold => None,
        (None, None) => Some(begin(context, spec)),
    }
}

/// Of an operation that this node has begun.
#[derive(Debug, PartialEq)]
enum Known {
    Running(KeyRotationStatus),
    Over(KeyRotationStatus),
}

/// What this node knows of the operation; none if it has not begun.
fn known(keys: &Keys, asked: &Asked, confirmations: &Confirmations) -> Option<Known> {
    let operation = &asked.spec.operation;
    if let Some(rotation) = keys.rotation().filter(|rotation| rotation.id == *operation) {
        return Some(Known::Running(running(rotation, confirmations)));
    }
    if let Some(ended) = keys.last().filter(|ended| ended.rotation.id == *operation) {
        return Some(Known::Over(over(ended)));
    }
    // It had begun, and the folder with the agent's state is another one now.
    let lost = asked.answer().filter(|status| status.begun.is_some())?;
    Some(Known::Over(KeyRotationStatus {
        state: KeyRotationState::Superseded,
        message: "this node has lost its record of the rotation".into(),
        waiting_for: Vec::new(),
        ended: Some(now()),
        ..lost.clone()
    }))
}

fn running(rotation: &Rotation, confirmations: &Confirmations) -> KeyRotationStatus {
    let Confirmations { live, waiting } = confirmations;
    let count = |number: usize| Some(u64::try_from(number).unwrap_or(u64::MAX));
    KeyRotationStatus {
        confirmed: count(live.saturating_sub(waiting.len())),
        peers: count(*live),
        waiting_for: waiting.iter().take(NAMED).cloned().collect(),
        message: String::new(),
        ended: None,
        ..of(rotation, rotation.phase.into())
    }
}

fn over(ended: &Ended) -> KeyRotationStatus {
    KeyRotationStatus { ended: Some(ended.at), ..of(&ended.rotation, ended.outcome.into()) }
}

fn of(rotation: &Rotation, state: KeyRotationState) -> KeyRotationStatus {
    let Rotation { id, from, to, begun, aborted, .. } = rotation;
    KeyRotationStatus {
        operation: id.clone(),
        state,
        message: aborted.clone().unwrap_or_default(),
        from_epoch: Some(*from),
        to_epoch: Some(*to),
        begun: Some(*begun),
        ..KeyRotationStatus::default()
    }
}

fn begin(context: &Context, spec: &KeyRotationSpec) -> KeyRotationStatus {
    let wanted = NewRotation {
        id: spec.operation.clone(),
        by: spec.requested_by.clone(),
        reason: spec.reason.clone(),
        deadline: Duration::from_secs(spec.deadline_seconds),
    };
    let status = KeyRotationStatus { operation: spec.operation.clone(), ..KeyRotationStatus::default() };
    match rotation::begin(context, wanted) {
        Ok(()) => {
            let keys = context.keys.lock();
            let begun = keys.rotation().map(|rotation| of(rotation, rotation.phase.into()));
            begun.unwrap_or(status)
        }
        Err(error) => {
            let is_final = matches!(error, BeginError::OldTunnel | BeginError::Keys(KeysError::LastEpoch));
            let (state, ended) = if is_final {
                (KeyRotationState::Refused, Some(now()))
            } else {
                (KeyRotationState::Waiting, None)
            };
            KeyRotationStatus { state, message: error.to_string(), ended, ..status }
        }
    }
}

/// To the second, as Kubernetes keeps times.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;

    fn asked(operation: &str, status: Option<KeyRotationStatus>) -> Asked {
        let spec = KeyRotationSpec { operation: operation.into(), ..KeyRotationSpec::default() };
        Asked { spec, status }
    }

    fn confirmations() -> Confirmations {
        Confirmations { live: 12, waiting: (0..9).map(|number| format!("n{number}")).collect() }
    }

    #[test]
    fn what_this_node_knows_of_an_operation() {
        let folder = tempfile::tempdir().unwrap();
        let mut keys = Keys::open(&Paths::default().below(folder.path())).unwrap();
        assert_eq!(known(&keys, &asked("r-1", None), &confirmations()), None);
        let wanted = NewRotation {
            id: "r-1".into(),
            by: "alice".into(),
            reason: String::new(),
            deadline: Duration::from_secs(1),
        };
        keys.rotate(wanted, now()).unwrap();
        let Some(Known::Running(status)) = known(&keys, &asked("r-1", None), &confirmations()) else {
            panic!("it runs")
        };
        assert_eq!(
            (status.state, status.peers, status.confirmed),
            (KeyRotationState::Preparing, Some(12), Some(3))
        );
        assert_eq!((status.waiting_for.len(), status.to_epoch), (NAMED, Some(2)));
        assert_eq!(known(&keys, &asked("r-2", None), &confirmations()), None, "another one");
        // An earlier agent had begun r-2, and nothing is known of it here.
        let begun = KeyRotationStatus { operation: "r-2".into(), begun: Some(now()), ..status };
        let lost = known(&keys, &asked("r-2", Some(begun.clone())), &confirmations());
        assert!(
            matches!(lost, Some(Known::Over(KeyRotationStatus { state: KeyRotationState::Superseded, .. }))),
            "{lost:?}"
        );
        let waiting = KeyRotationStatus { begun: None, ..begun };
        assert_eq!(known(&keys, &asked("r-2", Some(waiting)), &confirmations()), None, "it had not begun");
    }

    #[test]
    fn the_states_are_those_that_the_definition_has() {
        let text = include_str!("../../../deploy/base/resources.yaml");
        let definitions: Vec<serde_json::Value> = serde_saphyr::from_multiple(text).unwrap();
        let definition = &definitions[0];
        let version = &definition["spec"]["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"]["properties"];
        let states: Vec<KeyRotationState> =
            serde_json::from_value(schema["status"]["properties"]["state"]["enum"].clone()).unwrap();
        assert_eq!(states.len(), 9);
        assert_eq!(version["name"], crate::resource::VERSION);
        let fields =
            |of: &serde_json::Value| -> Vec<String> { of.as_object().unwrap().keys().cloned().collect() };
        let status = serde_json::to_value(KeyRotationStatus::default()).unwrap();
        assert_eq!(fields(&schema["status"]["properties"]), fields(&status));
        let abort =
            Some(crate::resource::key_rotation::Abort { requested_by: "a".into(), reason: "b".into() });
        let spec = KeyRotationSpec { reason: "c".into(), hold: true, abort, ..KeyRotationSpec::default() };
        assert_eq!(fields(&schema["spec"]["properties"]), fields(&serde_json::to_value(spec).unwrap()));
    }
}
