//! The connection to the tunnel's control API: says when a tunnel is there, and that another one is.

use crate::agent::context::Context;
use crate::agent::control::Trigger;
use crate::agent::retry::Retry;
use crate::agent::session::Session;
use crate::local::Client;
use crate::tunnel::api::{DeviceStatus, Event};

/// Follows the tunnel's events until dropped.
pub(in crate::agent) async fn follow(context: &Context) {
    let client = Client::new(&context.paths.tunnel_socket(&context.config.interface));
    let mut retry = Retry::default();
    for number in 1.. {
        let error = match events(context, &client, number, &mut retry).await {
            // The tunnel ended; the next connection finds its successor.
            Ok(()) => "the tunnel ended its stream of events".to_owned(),
            Err(error) => error.to_string(),
        };
        if put(context, Session::Broken(error.clone())) {
            tracing::warn!(error, "the tunnel does not answer, retrying with backoff");
        }
        tokio::time::sleep(retry.next().unwrap_or_default()).await;
    }
}

/// One connection to one life of the tunnel.
async fn events(
    context: &Context,
    client: &Client,
    number: u64,
    retry: &mut Retry,
) -> Result<(), crate::local::ClientError> {
    let mut events = client.lines::<Event>("/v1/events").await?;
    // Before anything is put to it: a tunnel of another version refuses what it does not understand.
    let status: Option<DeviceStatus> = client.get("/v1/status").await.ok();
    context.tunnel_capabilities.set(status.map(|status| status.capabilities).unwrap_or_default());
    put(context, Session::Open(number));
    *retry = Retry::default();
    while let Some(event) = events.next().await? {
        report(&event);
        if matches!(event, Event::Confirmed { .. }) && context.keys.lock().rotation().is_some() {
            context.bus.post(Trigger::Rotation);
        }
    }
    Ok(())
}

fn put(context: &Context, session: Session) -> bool {
    let changed = context.session.set(session);
    if changed {
        context.bus.post(Trigger::TunnelSession);
    }
    changed
}

fn report(event: &Event) {
    match event {
        Event::Confirmed { peer, own_epoch, peer_epoch } => {
            tracing::info!(peer, own_epoch, peer_epoch, "session confirmed");
        }
        Event::Roamed { peer, endpoint } => tracing::info!(peer, %endpoint, "endpoint changed"),
        Event::Silent { peer } => tracing::warn!(peer, "peer does not answer"),
        Event::Missed { count } => tracing::warn!(count, "events of the tunnel were missed"),
        Event::Unknown => {}
    }
}
