//! Events on their way from the device to the control side, without ever waiting.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::tunnel::device::DeviceEvent;

/// When the channel is looked at again that had no room.
const AGAIN: Duration = Duration::from_millis(100);

/// Where events go.
#[derive(Debug)]
pub(super) struct Events {
    sender: mpsc::Sender<DeviceEvent>,
    /// The channel has no room. What the device has stays there.
    is_full: bool,
}

impl Events {
    pub(super) fn new(sender: mpsc::Sender<DeviceEvent>) -> Self {
        Self { sender, is_full: false }
    }

    /// Passes on what `next` returns until it has no more, or the channel no more room.
    pub(super) fn pass_on(&mut self, mut next: impl FnMut() -> Option<DeviceEvent>) {
        self.is_full = loop {
            let permit = match self.sender.try_reserve() {
                Err(TrySendError::Full(())) => break true,
                permit => permit.ok(), // closed only while the process ends
            };
            match (next(), permit) {
                (Some(event), Some(permit)) => permit.send(event),
                (Some(_), None) => {}
                (None, _) => break false,
            }
        };
    }

    /// When to try again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.is_full.then(|| Instant::now() + AGAIN)
    }
}
