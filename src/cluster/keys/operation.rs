//! One operation on the keys of many nodes: asked for, carried on, aborted.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::fleet::Fleet;
use super::plan::{OperationPlan, Skipped};
use super::turns::{self, Place, Turn};
use crate::cause;
use crate::cluster::{Error, absent, code};
use crate::resource::KeyRotation;
use crate::resource::key_rotation::{Abort, KeyRotationSpec, KeyRotationState, OPERATION};

/// Who writes these objects, in their managed fields.
pub(super) const MANAGER: &str = "selvedge-keys";
/// How often a write is tried against an object that others write, too.
const CONFLICTS: usize = 10;
/// Pause between looks at the time.
const TICK: Duration = Duration::from_millis(250);

/// The rotations of one operation, by name of the Node.
pub type Objects = BTreeMap<String, KeyRotation>;

/// How an operation ended, or how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationOutcome {
    /// Its name.
    pub operation: String,
    /// Every node that takes part.
    pub nodes: Vec<NodeOutcome>,
    /// Those of them whose turn has come, and whose agents have not answered in time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// Those that do not take part.
    pub skipped: Vec<Skipped>,
}

/// Of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeOutcome {
    /// Its name.
    pub node: String,
    /// How far it is; none if its agent has not answered.
    pub state: Option<KeyRotationState>,
    /// It waits for its turn.
    pub held: bool,
    /// What the agent says.
    pub message: String,
    /// Epoch of the new key.
    pub epoch: Option<u64>,
    /// From beginning to end, in seconds.
    pub seconds: Option<i64>,
}

impl OperationOutcome {
    /// As the objects show it.
    #[must_use]
    pub fn of(operation: &str, objects: &Objects, skipped: Vec<Skipped>) -> Self {
        let nodes = objects.iter().map(|(node, object)| {
            let status = object.answer();
            NodeOutcome {
                node: node.clone(),
                state: status.map(|status| status.state),
                held: status.is_none() && object.spec.hold,
                message: status.map(|status| status.message.clone()).unwrap_or_default(),
                epoch: status.and_then(|status| status.to_epoch),
                seconds: status
                    .and_then(|status| Some(status.ended?.duration_since(status.begun?).as_secs())),
            }
        });
        Self { operation: operation.to_owned(), nodes: nodes.collect(), silent: Vec::new(), skipped }
    }

    /// Nodes in this state.
    #[must_use]
    pub fn count(&self, state: KeyRotationState) -> usize {
        self.nodes.iter().filter(|node| node.state == Some(state)).count()
    }
}

/// The name by which the API server knows the user of `client`, and holds them to in `requestedBy`; none if it does not tell.
///
/// # Errors
/// When it does not answer.
pub async fn user(client: &Client) -> Result<Option<String>, Error> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    match reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await {
        Ok(review) => Ok(review.status.and_then(|status| status.user_info?.username)),
        Err(error) if code(&error).is_some() => Ok(None),
        Err(error) => Err(Error::call("ask the API server who this is", error)),
    }
}

/// A random name for an operation. It is an identifier, not a secret.
///
/// # Errors
/// When the kernel has no randomness.
pub fn name() -> Result<String, Error> {
    let mut bytes = [0; 4];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| Error::Config(format!("cannot get random bytes: {error}")))?;
    Ok(format!("r-{:08x}", u32::from_ne_bytes(bytes)))
}

/// Writes an object for every node of the plan. Each waits for its turn. Returns those that could not be written because somebody
/// else was faster.
///
/// # Errors
/// At the first object that the API server refuses for another reason. What was written before waits for a turn that
/// [`follow`] gives.
pub async fn ask(
    client: &Client,
    fleet: &Fleet,
    plan: &OperationPlan,
    spec: &KeyRotationSpec,
) -> Result<Vec<Skipped>, Error> {
    let api: Api<KeyRotation> = Api::all(client.clone());
    let mut skipped = Vec::new();
    for node in &plan.nodes {
        let mut object = KeyRotation::new(node, KeyRotationSpec { hold: true, ..spec.clone() });
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let written = match fleet.rotations.get(node) {
            None => api.create(&params, &object).await,
            Some(before) => {
                object.metadata.resource_version = before.resource_version();
                api.replace(node, &params, &object).await
            }
        };
        match written {
            Ok(_) => {}
            Err(error) if matches!(code(&error), Some(404 | 409)) => {
                let reason = "its KeyRotation was changed by somebody else meanwhile".into();
                skipped.push(Skipped { node: node.clone(), reason });
            }
            Err(error) => return Err(Error::call(format!("write KeyRotation {node}"), error)),
        }
    }
    Ok(skipped)
}

/// How [`follow`] goes on.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many rotate at once.
    pub max_parallel: usize,
    /// Least time between the beginnings of two.
    pub interval: Duration,
    /// Wait until all have ended, too.
    pub until_done: bool,
}

/// Gives one node after another its turn, until nobody is waiting for one; or, on request, until all have ended. `say` gets what
/// is so at each moment. Dropped in the middle of it, the nodes whose turn has not come stay as they are, and the operation can be
/// carried on by another call. Returns the nodes whose agents have not answered in time.
///
/// # Errors
/// When the API server refuses a turn. While it does not answer, this waits.
pub async fn follow(
    client: &Client,
    operation: &str,
    pace: Pace,
    mut say: impl FnMut(&Objects, Option<&str>),
) -> Result<Vec<String>, Error> {
    let api: Api<KeyRotation> = Api::all(client.clone());
    let config = watcher::Config::default().labels(&format!("{OPERATION}={operation}"));
    let mut events = std::pin::pin!(watch(api.clone(), config).default_backoff());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut objects, mut listed, mut is_synced) = (Objects::new(), Objects::new(), false);
    let (mut turns_at, mut last_turn): (BTreeMap<String, Instant>, Option<Instant>) = Default::default();
    loop {
        let mut trouble = None;
        tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(Event::Init)) => listed.clear(),
                Ok(Some(Event::InitApply(object))) => drop(listed.insert(object.name_any(), object)),
                Ok(Some(Event::InitDone)) => (objects, is_synced) = (std::mem::take(&mut listed), true),
                Ok(Some(Event::Apply(object))) => drop(objects.insert(object.name_any(), object)),
                Ok(Some(Event::Delete(object))) => drop(objects.remove(&object.name_any())),
                Ok(None) => return Ok(Vec::new()),
                Err(error) => trouble = Some(cause::told(&error)),
            },
            _ = ticks.tick() => {}
        }
        if !is_synced {
            if let Some(trouble) = &trouble {
                say(&objects, Some(trouble));
            }
            continue;
        }
        let now = Instant::now();
        let places: BTreeMap<String, Place> = objects
            .iter()
            .filter(|(_, object)| object.spec.operation == operation)
            .map(|(node, object)| {
                let since = *turns_at.entry(node.clone()).or_insert(now);
                let is_held = turns::place(object, None) == Place::Held;
                if is_held {
                    turns_at.remove(node);
                }
                (node.clone(), turns::place(object, Some(now - since)))
            })
            .collect();
        say(&objects, trouble.as_deref());
        let may_begin = last_turn.is_none_or(|last| now - last >= pace.interval);
        match turns::next(&places, pace.max_parallel, may_begin, pace.until_done) {
            Turn::Over => {
                let silent = places.into_iter().filter(|(_, place)| *place == Place::Silent);
                return Ok(silent.map(|(node, _)| node).collect());
            }
            Turn::Wait => {}
            Turn::Release(node) => {
                if let Some(released) = release(&api, &node, objects.get(&node)).await? {
                    last_turn = Some(now);
                    objects.insert(node, released);
                }
            }
        }
    }
}

/// Its turn has come. None if somebody was faster, or the API server does not answer: the next look shows it.
async fn release(
    api: &Api<KeyRotation>,
    node: &str,
    object: Option<&KeyRotation>,
) -> Result<Option<KeyRotation>, Error> {
    let version = object.and_then(kube::ResourceExt::resource_version);
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"hold": null}});
    match api.patch(node, &params(), &Patch::Merge(&patch)).await {
        Ok(released) => Ok(Some(released)),
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(None),
        Err(error) => {
            let error = Error::call(format!("release KeyRotation {node}"), error);
            if error.is_transient() { Ok(None) } else { Err(error) }
        }
    }
}

/// Takes the operation back on every node where it has not ended, those included that wait for their turn. Returns how many these
/// are, or nothing if there is no operation of that name.
///
/// # Errors
/// At the first object that the API server refuses.
pub async fn abort(
    client: &Client,
    fleet: &Fleet,
    operation: &str,
    abort: &Abort,
) -> Result<Option<usize>, Error> {
    let api: Api<KeyRotation> = Api::all(client.clone());
    let concerned = fleet.rotations.iter().filter(|(_, object)| object.spec.operation == operation);
    let (mut is_known, mut count) = (false, 0);
    for (node, object) in concerned {
        is_known = true;
        count += usize::from(abort_one(&api, node, object.clone(), abort).await?);
    }
    Ok(is_known.then_some(count))
}

/// Whether there was something to take back. The object counts only as it is now: somebody may have asked for something else.
async fn abort_one(
    api: &Api<KeyRotation>,
    node: &str,
    mut object: KeyRotation,
    abort: &Abort,
) -> Result<bool, Error> {
    let operation = object.spec.operation.clone();
    let failed = |error| Error::call(format!("abort KeyRotation {node}"), error);
    for _ in 0..CONFLICTS {
        if object.spec.operation != operation || object.is_over() || object.spec.abort.is_some() {
            return Ok(false);
        }
        let version = object.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"abort": abort}});
        match api.patch(node, &params(), &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(true),
            Err(error) if code(&error) == Some(409) => {}
            Err(error) => return absent(Err(error)).map(|_: Option<()>| false).map_err(failed),
        }
        let Some(now) = absent(api.get(node).await).map_err(failed)? else { return Ok(false) };
        object = now;
    }
    Err(Error::Conflict(format!("KeyRotation {node} changes all the time; try again")))
}

pub(super) fn params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() }
}
