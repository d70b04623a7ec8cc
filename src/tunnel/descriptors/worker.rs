//! The worker's side: what it got back from the parent, and what it gives to it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use tokio::sync::mpsc;

use super::channel::{Channel, Message};
use super::parent::Kept;

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
pub(crate) struct Hello {
    pub(crate) parent: i32,
    pub(crate) descriptors: Descriptors,
}

impl Descriptors {
    /// Takes what the parent sends first. Its end of the pair is standard input.
    pub(crate) fn receive() -> io::Result<Hello> {
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
        let given = Kept::receive(&channel)?.into_all();
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

    /// Tells the parent that the device was taken over from another process.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn taken(&self) -> io::Result<()> {
        self.channel.send("taken", None)
    }

    /// Tells the parent that the successor is gone and the device is still ours.
    pub(crate) fn stayed(&self) -> io::Result<()> {
        self.channel.send("stayed", None)
    }

    /// Starts a thread that waits for the parent's later requests.
    pub(crate) fn requests(&self) -> io::Result<Requests> {
        let channel = self.channel.try_clone()?;
        let (sender, links) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("requests".into()).spawn(move || {
            loop {
                match channel.receive() {
                    Ok(Some(Message { text, descriptor: Some(link) })) if text == "leave" => {
                        let _ = sender.send(link);
                    }
                    Ok(Some(_)) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // The parent is gone, and so are we.
                    Ok(None) | Err(_) => return,
                }
            }
        })?;
        Ok(Requests(links))
    }

    /// Tells the parent that all is set up: from now on, this process is worth starting again.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn ready(&self) -> io::Result<()> {
        self.channel.send("ready", None)
    }
}

/// What the parent asks of its worker.
#[derive(Debug)]
pub(crate) struct Requests(mpsc::UnboundedReceiver<OwnedFd>);

impl Requests {
    /// Waits until the worker is to hand over; returns the link to its successor.
    pub(crate) async fn leave(&mut self) -> OwnedFd {
        match self.0.recv().await {
            Some(link) => link,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parent::Notice;
    use super::*;

    #[test]
    fn a_worker_gets_back_what_the_one_before_gave() {
        let mut kept = Kept::default();
        let file = tempfile::tempfile().unwrap();
        for name in ["tun", "udp4", "gone"] {
            let (parent, worker) = Channel::pair().unwrap();
            kept.hand_over(&parent, 3, None).unwrap();
            let hello = Descriptors::receive_from(worker).unwrap();
            assert_eq!(hello.descriptors.restarts, 3);
            assert_eq!(hello.parent.unsigned_abs(), std::process::id());
            hello.descriptors.keep(name, file.as_fd()).unwrap();
            hello.descriptors.forget("gone").unwrap();
            hello.descriptors.ready().unwrap();
            let mut ready = false;
            while !ready {
                let message = parent.receive().unwrap().unwrap();
                ready = kept.apply(&message.text, message.descriptor) == Some(Notice::Ready);
            }
        }
        let (parent, worker) = Channel::pair().unwrap();
        kept.hand_over(&parent, 4, None).unwrap();
        let descriptors = Descriptors::receive_from(worker).unwrap().descriptors;
        let found = ["tun", "udp4", "gone"].map(|name| descriptors.take(name).is_some());
        assert_eq!(found, [true, true, false]);
    }
}
