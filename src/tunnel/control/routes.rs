//! The control API's routes; their table is in [`crate::tunnel::api`].

use std::sync::Arc;

use futures::Stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{ChangeError, Engine};
use crate::local::{Method, Problem, Response, Router};
use crate::tunnel::api::{DeviceConfig, Event, PeerConfig};

/// The routes of the control API of `engine`.
#[must_use]
pub fn router(engine: &Arc<Engine>) -> Router {
    let mut router = Router::new();
    let shared = || Arc::clone(engine);
    let own = shared();
    router.route(Method::GET, "/v1/config", move |_| {
        let engine = Arc::clone(&own);
        async move {
            let config = engine.config().await.map_err(problem)?;
            Response::json(&config.ok_or_else(|| Problem::not_found(ChangeError::NoConfig))?)
        }
    });
    let own = shared();
    router.route(Method::PUT, "/v1/config", move |request| {
        let engine = Arc::clone(&own);
        async move {
            let config: DeviceConfig = request.json()?;
            Response::json(&engine.configure(config).await.map_err(problem)?)
        }
    });
    let own = shared();
    router.route(Method::GET, "/v1/peers/{name}", move |request| {
        let engine = Arc::clone(&own);
        async move {
            let name = request.param("name");
            let peer = engine.peer(name).await.map_err(problem)?;
            Response::json(&peer.ok_or_else(|| Problem::not_found(format!("there is no peer {name}")))?)
        }
    });
    let own = shared();
    router.route(Method::PUT, "/v1/peers/{name}", move |request| {
        let engine = Arc::clone(&own);
        async move {
            let peer: PeerConfig = request.json()?;
            if peer.name != request.param("name") {
                return Err(Problem::bad_request("the peer's name differs from that of the path"));
            }
            Response::json(&engine.put_peer(peer).await.map_err(problem)?)
        }
    });
    let own = shared();
    router.route(Method::DELETE, "/v1/peers/{name}", move |request| {
        let engine = Arc::clone(&own);
        async move { Response::json(&engine.delete_peer(request.param("name")).await.map_err(problem)?) }
    });
    let own = shared();
    router.route(Method::GET, "/v1/status", move |_| {
        let engine = Arc::clone(&own);
        async move { Response::json(&engine.status().await.map_err(problem)?) }
    });
    let own = shared();
    router.route(Method::GET, "/v1/events", move |_| {
        let events = stream(own.listen());
        async move { Ok(Response::lines(events)) }
    });
    router
}

fn stream(events: Receiver<Event>) -> impl Stream<Item = Event> + Send {
    futures::stream::unfold(events, |mut events| async move {
        match events.recv().await {
            Ok(event) => Some((event, events)),
            Err(RecvError::Lagged(count)) => Some((Event::Missed { count }, events)),
            Err(RecvError::Closed) => None,
        }
    })
}

fn problem(error: ChangeError) -> Problem {
    match error {
        ChangeError::Invalid(_) | ChangeError::Config(_) | ChangeError::Key { .. } => {
            Problem::bad_request(error)
        }
        ChangeError::WrongMode(_)
        | ChangeError::NoConfig
        | ChangeError::Udp { .. }
        | ChangeError::HandingOver => Problem::conflict(error),
        ChangeError::System { .. } | ChangeError::Stopped => Problem::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed() {
        let (sender, receiver) = tokio::sync::broadcast::channel(4);
        for number in 0..10 {
            sender.send(Event::Silent { peer: number.to_string() }).unwrap();
        }
        drop(sender);
        let seen: Vec<Event> = stream(receiver).collect().await;
        assert_eq!(seen[0], Event::Missed { count: 6 });
        assert_eq!(seen[1], Event::Silent { peer: "6".into() });
        assert_eq!(seen.len(), 5);
    }
}
