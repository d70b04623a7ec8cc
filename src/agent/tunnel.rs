//! Keeps the tunnel at the wanted configuration: puts it when it changes, when the tunnel comes back, and now and
//! then. The tunnel itself compares: putting the same again changes nothing.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch::{Receiver, Sender};

use super::retry::Retry;
use crate::local::{Client, ClientError};
use crate::observe::metrics::{Metrics, Part};
use crate::tunnel::api::{Applied, DeviceConfig, Event};

/// How often the configuration is put again although nothing seems to have changed.
const RESYNC: Duration = Duration::from_secs(30);

/// Where the agent and its tunnel stand with each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Link {
    /// No answer yet.
    #[default]
    Unknown,
    /// The tunnel runs what the agent wants.
    InStep,
    /// It does not answer, or refused; the text says why.
    Broken(String),
}

/// Follows `wanted` until the task is dropped, and reports to `link`.
pub async fn follow(
    socket: PathBuf,
    mut wanted: Receiver<Option<DeviceConfig>>,
    link: Sender<Link>,
    metrics: Metrics,
) {
    let client = Client::new(&socket);
    let mut retry = Retry::default();
    loop {
        let error = match session(&client, &mut wanted, &link, &metrics, &mut retry).await {
            Ok(()) => return,
            Err(error) => error,
        };
        let text = error.to_string();
        if *link.borrow() != Link::Broken(text.clone()) {
            tracing::warn!(error = text, "the tunnel does not follow");
            link.send_replace(Link::Broken(text));
        }
        tokio::time::sleep(retry.next().unwrap_or(RESYNC)).await;
    }
}

/// One connection to one life of the tunnel. Ends well only when nobody wants anything any more.
async fn session(
    client: &Client,
    wanted: &mut Receiver<Option<DeviceConfig>>,
    link: &Sender<Link>,
    metrics: &Metrics,
    retry: &mut Retry,
) -> anyhow::Result<()> {
    let mut events = client.lines::<Event>("/v1/events").await?;
    loop {
        let config = wanted.borrow_and_update().clone();
        if let Some(config) = config {
            put(client, &config, metrics).await?;
            *retry = Retry::default();
            link.send_if_modified(|link| std::mem::replace(link, Link::InStep) != Link::InStep);
        }
        let resync = tokio::time::sleep(RESYNC);
        tokio::pin!(resync);
        loop {
            tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return Ok(()),
                },
                () = &mut resync => break,
                event = events.next() => match event? {
                    Some(event) => report(&event),
                    // The tunnel ended; the next connection finds its successor.
                    None => anyhow::bail!("the tunnel ended its stream of events"),
                },
            }
        }
    }
}

async fn put(client: &Client, config: &DeviceConfig, metrics: &Metrics) -> Result<(), ClientError> {
    let applied: Applied = client.put("/v1/config", config).await?;
    if applied != Applied::default() {
        metrics.changes.get_or_create(&Part { part: "tunnel".into() }).inc();
        tracing::info!(
            added = ?applied.added, changed = ?applied.changed, removed = ?applied.removed, "peers configured"
        );
    }
    Ok(())
}

fn report(event: &Event) {
    match event {
        Event::Confirmed { peer, own_epoch, peer_epoch } => {
            tracing::info!(peer, own_epoch, peer_epoch, "session confirmed");
        }
        Event::Roamed { peer, endpoint } => tracing::info!(peer, %endpoint, "peer moved"),
        Event::Silent { peer } => tracing::warn!(peer, "peer does not answer"),
        Event::Missed { count } => tracing::warn!(count, "events of the tunnel were missed"),
        Event::Unknown => {}
    }
}
