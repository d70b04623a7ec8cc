//! The process.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;

use super::ROUTE;
use super::hold::Hold;
use super::wanted::Wanted;
use crate::local::{self, Client, Method, Response, Router};
use crate::paths::Paths;

/// Holds what the agent wants, until the process is told to end. Takes over from another holder, which goes on until it is
/// stopped.
///
/// # Errors
/// When the local API cannot be served.
pub async fn run(paths: &Paths) -> anyhow::Result<()> {
    let socket = paths.ports_socket();
    let mut hold = Hold::default();
    if let Ok(wanted) = Client::new(&socket).get::<Wanted>(ROUTE).await {
        for (port, error) in hold.take(wanted).refused {
            tracing::warn!(port, error, "not taken over");
        }
    }
    let listener = local::take_over(&socket)?;
    local::serve(listener, router(hold)).await.context("the local API ended")
}

fn router(hold: Hold) -> Router {
    let hold = Arc::new(Mutex::new(hold));
    let mut router = Router::new();
    let shown = Arc::clone(&hold);
    router.route(Method::GET, ROUTE, move |_| {
        let wanted = shown.lock().unwrap_or_else(PoisonError::into_inner).wanted();
        async move { Response::json(&wanted) }
    });
    router.route(Method::PUT, ROUTE, move |request| {
        let hold = Arc::clone(&hold);
        async move {
            let wanted: Wanted = request.json()?;
            let held = hold.lock().unwrap_or_else(PoisonError::into_inner).take(wanted);
            Response::json(&held)
        }
    });
    router
}
