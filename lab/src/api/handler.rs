//! From an HTTP request to its answer: who asks, may they, does it fail on order, and which verb.

use std::io;
use std::sync::Arc;

use http::Response;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::access::User;
use super::answer::{Answer, Body, refusal, respond};
use super::call::Request;
use super::discovery::{self, Page};
use super::failure::Failure;
use super::fault::Action;
use super::state::State;
use super::verbs;

/// As etcd and the real server limit it, roughly.
const MAX_BODY: usize = 3 << 20;

/// Answers one request. The error ends the connection without an answer.
pub(super) async fn serve(
    state: Arc<State>,
    incoming: hyper::Request<Incoming>,
) -> io::Result<Response<Body>> {
    let (head, body) = incoming.into_parts();
    let mut request = Request::of(&head);
    let user = state.users.authenticate(&head.headers);
    request.user = user.as_ref().map(|user| user.name.clone()).unwrap_or_default();
    state.responsive().await;
    let failed = match fault(&state, &request).await {
        Some(Action::Drop) => return Err(io::ErrorKind::ConnectionAborted.into()),
        Some(Action::Fail(failure)) => Some(failure),
        _ => None,
    };
    let answer = match failed {
        Some(failure) => Err(failure),
        None => answer(&state, user, &request, body).await,
    };
    state.responsive().await;
    let response = answer.unwrap_or_else(|failure| refusal(&failure));
    let response = state.counters.count(&request, response);
    state.log.add(response.status().as_u16(), request);
    Ok(response)
}

/// Waits as faults want it, and returns the first of them that ends the request.
async fn fault(state: &State, request: &Request) -> Option<Action> {
    for action in state.faults.of(request) {
        match action {
            Action::Delay(time) => tokio::time::sleep(time).await,
            other => return Some(other),
        }
    }
    None
}

async fn answer(state: &Arc<State>, user: Option<User>, request: &Request, body: Incoming) -> Answer {
    let Some(resource) = request.resource else {
        if user.is_none() && !discovery::is_public(&request.path) {
            return Err(Failure::unauthorized());
        }
        return Ok(match discovery::page(request)? {
            Page::Text(text) => respond(200, "text/plain", text),
            Page::Json(media, value) => respond(200, media, value.to_string()),
        });
    };
    let user = user.ok_or_else(Failure::unauthorized)?;
    user.may(request)?;
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|error| Failure::new(413, "RequestEntityTooLarge", error.to_string()))?;
    verbs::Call { state, user: &user, request, resource }.answer(&body.to_bytes())
}
