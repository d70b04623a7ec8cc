//! The worker's side of the descriptor store: what it got back from the parent, and what it gives to it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use super::channel::Channel;

/// The parent's store, as the worker sees it.
#[derive(Debug)]
pub struct Descriptors {
    channel: Channel,
    given: Mutex<BTreeMap<String, OwnedFd>>,
    /// How often a worker was started before this one.
    pub restarts: u64,
}

/// What this process got from its parent at start.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) parent: i32,
    pub(super) descriptors: Descriptors,
}

impl Descriptors {
    /// Takes what the parent sends first. Its end of the pair is standard input.
    pub(super) fn receive() -> io::Result<Hello> {
        Self::receive_from(Channel::from(io::stdin().as_fd().try_clone_to_owned()?))
    }

    fn receive_from(channel: Channel) -> io::Result<Hello> {
        let malformed = || io::Error::other("this verb is for `selvedge tunnel` alone to run");
        let hello = channel.receive()?.ok_or_else(malformed)?;
        let mut words = hello.text.split(' ');
        let (Some("hello"), Some(parent), Some(restarts)) = (words.next(), words.next(), words.next()) else {
            return Err(malformed());
        };
        let parent = parent.parse().map_err(|_| malformed())?;
        let restarts = restarts.parse().map_err(|_| malformed())?;
        let mut given = BTreeMap::new();
        loop {
            let message = channel.receive()?.ok_or_else(malformed)?;
            match (message.text.split_once(' '), message.descriptor) {
                (Some(("give", name)), Some(descriptor)) => drop(given.insert(name.to_owned(), descriptor)),
                _ if message.text == "end" => break,
                _ => return Err(malformed()),
            }
        }
        Ok(Hello { parent, descriptors: Self { channel, given: Mutex::new(given), restarts } })
    }

    /// Takes the descriptor that a worker before this one gave under `name`. The parent keeps it too.
    #[must_use]
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        self.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(name)
    }

    /// Has the parent keep a copy of `descriptor` under `name`, instead of what it had there.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.channel.send(&format!("keep {name}"), Some(descriptor))
    }

    /// Has the parent close what it keeps under `name`.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.channel.send(&format!("forget {name}"), None)
    }

    /// Tells the parent that all is set up: from now on, this process is worth starting again.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn ready(&self) -> io::Result<()> {
        self.channel.send("ready", None)
    }
}

/// The parent's side: the descriptors it keeps.
#[derive(Debug, Default)]
pub(super) struct Kept(BTreeMap<String, OwnedFd>);

impl Kept {
    pub(super) fn insert(&mut self, name: &str, descriptor: OwnedFd) {
        self.0.insert(name.to_owned(), descriptor);
    }

    /// What a new worker is told first.
    pub(super) fn hand_over(&self, channel: &Channel, restarts: u64) -> io::Result<()> {
        channel.send(&format!("hello {} {restarts}", std::process::id()), None)?;
        for (name, descriptor) in &self.0 {
            channel.send(&format!("give {name}"), Some(descriptor.as_fd()))?;
        }
        channel.send("end", None)
    }

    /// Does what a worker asks for; true when it says that it is ready.
    pub(super) fn obey(&mut self, text: &str, descriptor: Option<OwnedFd>) -> bool {
        match (text.split_once(' '), descriptor) {
            (Some(("keep", name)), Some(descriptor)) => self.insert(name, descriptor),
            (Some(("forget", name)), None) => drop(self.0.remove(name)),
            _ => return text == "ready",
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_gets_back_what_the_one_before_gave() {
        let mut kept = Kept::default();
        let file = tempfile::tempfile().unwrap();
        for name in ["tun", "udp4", "gone"] {
            let (parent, worker) = Channel::pair().unwrap();
            kept.hand_over(&parent, 3).unwrap();
            let hello = Descriptors::receive_from(worker).unwrap();
            assert_eq!(hello.descriptors.restarts, 3);
            assert_eq!(hello.parent.unsigned_abs(), std::process::id());
            hello.descriptors.keep(name, file.as_fd()).unwrap();
            hello.descriptors.forget("gone").unwrap();
            hello.descriptors.ready().unwrap();
            let mut ready = false;
            while !ready {
                let message = parent.receive().unwrap().unwrap();
                ready = kept.obey(&message.text, message.descriptor);
            }
        }
        let (parent, worker) = Channel::pair().unwrap();
        kept.hand_over(&parent, 4).unwrap();
        let descriptors = Descriptors::receive_from(worker).unwrap().descriptors;
        let found = ["tun", "udp4", "gone"].map(|name| descriptors.take(name).is_some());
        assert_eq!(found, [true, true, false]);
    }
}
