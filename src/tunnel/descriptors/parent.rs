//! The parent's side: the descriptors it keeps.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::channel::Channel;
use super::slot;

/// What a worker reports to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// All is set up.
    Ready,
    /// The device was taken over from another process.
    Taken,
    /// The successor is gone; the device stays with this worker.
    Stayed,
}

/// The descriptors that a parent keeps, by name.
#[derive(Debug, Default)]
pub(crate) struct Kept(BTreeMap<String, OwnedFd>);

impl Kept {
    pub(crate) fn insert(&mut self, name: &str, descriptor: OwnedFd) {
        self.0.insert(name.to_owned(), descriptor);
    }

    pub(crate) fn get(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.0.get(name).map(OwnedFd::as_fd)
    }

    /// Sends what a new worker starts with. `link` leads to the worker that it is to succeed.
    pub(crate) fn hand_over(
        &self,
        channel: &Channel,
        restarts: u64,
        link: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        channel.send(&format!("hello {} {restarts}", std::process::id()), None)?;
        self.give(channel, link)
    }

    /// Sends a copy of each descriptor, and `link`.
    pub(crate) fn give(&self, channel: &Channel, link: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let kept = self.0.iter().map(|(name, descriptor)| (name.as_str(), descriptor.as_fd()));
        for (name, descriptor) in kept.chain(link.map(|link| (slot::LINK, link))) {
            channel.send(&format!("give {name}"), Some(descriptor))?;
        }
        channel.send("end", None)
    }

    /// Takes what [`Kept::give`] sends.
    pub(crate) fn receive(channel: &Channel) -> io::Result<Self> {
        let malformed = || io::Error::other("it does not say what is expected");
        let mut given = BTreeMap::new();
        loop {
            let message = channel.receive()?.ok_or_else(malformed)?;
            match (message.text.split_once(' '), message.descriptor) {
                (Some(("give", name)), Some(descriptor)) => drop(given.insert(name.to_owned(), descriptor)),
                (Some(("no", reason)), None) => return Err(io::Error::other(reason.to_owned())),
                _ if message.text == "end" => return Ok(Self(given)),
                _ => return Err(malformed()),
            }
        }
    }

    /// All of them, by name.
    pub(super) fn into_all(self) -> BTreeMap<String, OwnedFd> {
        self.0
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<OwnedFd> {
        self.0.remove(name)
    }

    /// Carries out a worker's request, or returns its report.
    pub(crate) fn apply(&mut self, text: &str, descriptor: Option<OwnedFd>) -> Option<Notice> {
        match (text.split_once(' '), descriptor) {
            (Some(("keep", name)), Some(descriptor)) => self.insert(name, descriptor),
            (Some(("forget", name)), None) => drop(self.0.remove(name)),
            _ => {
                return match text {
                    "ready" => Some(Notice::Ready),
                    "taken" => Some(Notice::Taken),
                    "stayed" => Some(Notice::Stayed),
                    _ => None,
                };
            }
        }
        None
    }
}
