//! The worker's control side: commands in, the end of the thread out.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::WorkerError;
use super::command::Command;

/// The way to a running worker thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct WorkerHandle {
    commands: CommandSender,
    ended: Option<oneshot::Receiver<()>>,
    thread: Option<JoinHandle<Result<(), WorkerError>>>,
}

impl WorkerHandle {
    /// Starts `run` on a thread named `name`; it gets the commands and the descriptor that announces them.
    pub(super) fn spawn(
        name: String,
        run: impl FnOnce(CommandReceiver) -> Result<(), WorkerError> + Send + 'static,
    ) -> Result<Self, WorkerError> {
        let start = |what| move |source| WorkerError::Start { what, source };
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| start("eventfd")(errno.into()))?;
        let wake = Arc::new(wake);
        let (sender, receiver) = mpsc::channel();
        let commands = CommandSender { sender, wake: Arc::clone(&wake) };
        let receiver = CommandReceiver { receiver, wake };
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let _end = end;
                run(receiver)
            })
            .map_err(start("thread"))?;
        Ok(Self { commands, ended: Some(ended), thread: Some(thread) })
    }

    /// Sends a command and wakes the worker.
    ///
    /// # Errors
    /// [`Stopped`] if the thread has ended; [`join`](Self::join) says why.
    pub fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command)
    }

    /// A sender that can be cloned and moved to other tasks.
    #[must_use]
    pub fn commands(&self) -> CommandSender {
        self.commands.clone()
    }

    /// Makes the worker look at its commands now; [`send`](Self::send) does this by itself.
    pub fn wake(&self) {
        self.commands.wake();
    }

    /// Waits, without blocking the runtime, until the thread has ended, and says why it did.
    ///
    /// # Errors
    /// [`WorkerError`] if it was not told to. A second call gives `Ok`.
    pub async fn ended(&mut self) -> Result<(), WorkerError> {
        if let Some(ended) = self.ended.as_mut() {
            let _ = ended.await;
            self.ended = None;
        }
        self.finish()
    }

    /// Waits until the thread has ended. Tell it to with [`Command::Stop`].
    ///
    /// # Errors
    /// [`WorkerError`] if it ended by itself.
    pub fn join(mut self) -> Result<(), WorkerError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), WorkerError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| Err(WorkerError::Panicked(panic_text(panic.as_ref()))))
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.commands.send(Command::Stop);
        }
    }
}

/// Sends commands to a worker from any thread or task.
#[derive(Debug, Clone)]
pub struct CommandSender {
    sender: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

impl CommandSender {
    /// Sends a command and wakes the worker.
    ///
    /// # Errors
    /// [`Stopped`] if the thread has ended.
    pub fn send(&self, command: Command) -> Result<(), Stopped> {
        self.sender.send(command).map_err(|_| Stopped)?;
        self.wake();
        Ok(())
    }

    /// Makes the worker look at its commands.
    pub fn wake(&self) {
        // It fails only if the counter is full, and then the worker is awake.
        let _ = self.wake.write(1);
    }
}

/// The worker thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tunnel's worker has stopped")]
pub struct Stopped;

/// The worker's end.
#[derive(Debug)]
pub(super) struct CommandReceiver {
    pub(super) receiver: mpsc::Receiver<Command>,
    pub(super) wake: Arc<EventFd>,
}

impl CommandReceiver {
    /// Takes back the announcement, before looking at the commands.
    pub(super) fn acknowledge(&self) -> io::Result<()> {
        match self.wake.read() {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(|s| &**s));
    text.unwrap_or("no text").to_owned()
}
