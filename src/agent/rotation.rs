//! What the agent answers about this node's keys, and how their rotation is asked for.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use selvedge_keys::rotation::Rotation;

use super::context::Context;
use super::control::Trigger;
use super::keys::{Confirmations, KeysError, NewRotation, TunnelKeys};
use super::session::Session;
use super::status::{AbortRequest, KeysStatus, LastRotation, RotateRequest, RotationStatus};
use crate::local::{Client, Method, Problem, Response, Router, StatusCode};
use crate::resource::key_rotation::{DEADLINE, NAMED, TEXT};
use crate::tunnel::api::{DeviceStatus, RETIRED_KEYS};

/// Most bytes of the name of who asks.
const NAME: usize = 512;

/// Why a rotation cannot begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    /// Peers could not be kept on both keys.
    #[error("the tunnel of this node does not answer: keys are rotated once it does")]
    NoTunnel,
    /// It lacks the capability.
    #[error(
        "the tunnel of this node is of an older version, which cannot go back to an earlier key; update it first"
    )]
    OldTunnel,
    /// The store refuses it.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Adds the routes.
pub(super) fn route(router: &mut Router, context: &Arc<Context>) {
    let asked = Arc::clone(context);
    router.route(Method::GET, "/v1/keys", move |_| {
        let context = Arc::clone(&asked);
        async move { Response::json(&status(&context).await) }
    });
    let rotating = Arc::clone(context);
    router.route(Method::POST, "/v1/keys/rotate", move |request| {
        let context = Arc::clone(&rotating);
        async move {
            rotate(&context, &request.json()?)?;
            Response::json(&status(&context).await)
        }
    });
    let aborting = Arc::clone(context);
    router.route(Method::POST, "/v1/keys/abort", move |request| {
        let context = Arc::clone(&aborting);
        async move {
            abort(&context, &request.json()?)?;
            Response::json(&status(&context).await)
        }
    });
}

fn rotate(context: &Context, asked: &RotateRequest) -> Result<(), Problem> {
    let RotateRequest { by, reason, deadline_seconds } = asked;
    if !DEADLINE.contains(deadline_seconds) {
        let (first, last) = (DEADLINE.start(), DEADLINE.end());
        return Err(Problem::bad_request(format!("a deadline is from {first} to {last} seconds")));
    }
    short("reason", reason, TEXT)?;
    short("name of who asks", by, NAME)?;
    let id = id().map_err(Problem::internal)?;
    let wanted = NewRotation {
        id,
        by: by.clone(),
        reason: reason.clone(),
        deadline: Duration::from_secs(*deadline_seconds),
    };
    begin(context, wanted).map_err(|error| match error {
        BeginError::Keys(error) => problem(error),
        error => Problem::conflict(error.to_string()),
    })
}

/// Begins a rotation of this node's keys.
pub(super) fn begin(context: &Context, wanted: NewRotation) -> Result<(), BeginError> {
    if !matches!(context.session.get(), Session::Open(_)) {
        return Err(BeginError::NoTunnel);
    }
    if !context.tunnel_capabilities.lock().iter().any(|name| name == RETIRED_KEYS) {
        return Err(BeginError::OldTunnel);
    }
    context.keys.lock().rotate(wanted, Timestamp::now())?;
    context.confirmations.set(Confirmations::default());
    context.bus.post(Trigger::Rotation);
    Ok(())
}

/// Takes the rotation `id` back.
pub(super) fn take_back(context: &Context, id: &str, by: &str, reason: &str) -> Result<(), KeysError> {
    context.keys.lock().abort(id, by, reason)?;
    context.bus.post(Trigger::Keys);
    context.bus.post(Trigger::Rotation);
    Ok(())
}

fn abort(context: &Context, asked: &AbortRequest) -> Result<(), Problem> {
    short("reason", &asked.reason, TEXT)?;
    short("name of who asks", &asked.by, NAME)?;
    take_back(context, &asked.id, &asked.by, &asked.reason).map_err(problem)
}

fn short(what: &str, text: &str, most: usize) -> Result<(), Problem> {
    match text.len() <= most {
        true => Ok(()),
        false => Err(Problem::bad_request(format!("the {what} has {} bytes, more than {most}", text.len()))),
    }
}

fn problem(error: KeysError) -> Problem {
    let status = match error {
        KeysError::Running { .. } | KeysError::Leftovers | KeysError::TooLate(_) | KeysError::LastEpoch => {
            StatusCode::CONFLICT
        }
        KeysError::NotRunning(_) => StatusCode::NOT_FOUND,
        KeysError::Store(_) | KeysError::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, error)
}

/// A random name for a rotation. It is an identifier, not a secret.
pub(super) fn id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)?;
    Ok(format!("r-{:08x}", u32::from_ne_bytes(bytes)))
}

async fn status(context: &Context) -> KeysStatus {
    let (rotation, last, current, created, audit_problem) = {
        let keys = context.keys.lock();
        let audit_problem = keys.audit_problem().map(str::to_owned);
        (keys.rotation().cloned(), keys.last().cloned(), keys.current(), keys.created(), audit_problem)
    };
    let rotation = match rotation {
        Some(rotation) => Some(progress(context, rotation).await),
        None => None,
    };
    let last = last.map(|ended| LastRotation {
        id: ended.rotation.id,
        outcome: ended.outcome,
        from: ended.rotation.from,
        to: ended.rotation.to,
        begun: ended.rotation.begun,
        ended: ended.at,
    });
    let (key_epoch, public_key) = current;
    let node = context.config.node_name.clone();
    KeysStatus { node, public_key, key_epoch, key_created: created, audit_problem, rotation, last }
}

async fn progress(context: &Context, rotation: Rotation) -> RotationStatus {
    let socket = context.paths.tunnel_socket(&context.config.interface);
    let status: Option<DeviceStatus> = Client::new(&socket).get("/v1/status").await.ok();
    let tunnel = status.map(|status| TunnelKeys::of(0, &status, rotation.from, rotation.to));
    let Confirmations { live, waiting } =
        tunnel.map(|tunnel| tunnel.confirmations(&rotation)).unwrap_or_default();
    RotationStatus {
        id: rotation.id,
        by: rotation.by,
        reason: rotation.reason,
        phase: rotation.phase,
        from: rotation.from,
        to: rotation.to,
        begun: rotation.begun,
        deadline: rotation.deadline,
        live,
        confirmed: live - waiting.len().min(live),
        waiting_for: waiting.into_iter().take(NAMED).collect(),
        aborted: rotation.aborted,
    }
}
