//! Faults on order: answers that come late, fail, or do not come.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::call::Request;
use super::failure::Failure;

/// Something that goes wrong with the requests that match. Inject it with [`Server::inject`](super::Server::inject).
pub struct Fault {
    matches: Box<dyn Fn(&Request) -> bool + Send + Sync>,
    action: Action,
    left: Option<u32>,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Action {
    /// The answer comes that much later.
    Delay(Duration),
    /// The answer is this failure; see [`Failure::too_many_requests`] and [`Failure::internal`].
    Fail(Failure),
    /// The connection ends without an answer.
    Drop,
}

impl Fault {
    /// A fault of every request.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self { matches: Box::new(|_| true), action, left: None }
    }

    /// Only of requests that match.
    #[must_use]
    pub fn when(mut self, matches: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        self.matches = Box::new(matches);
        self
    }

    /// Only of the next `count` that match.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.left = Some(count);
        self
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("action", &self.action)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

type List = Mutex<Vec<(u64, Fault)>>;

/// Keeps a fault in place; dropped, it takes the fault away.
#[derive(Debug)]
#[must_use = "the fault goes away when this is dropped"]
pub struct Injected {
    faults: Weak<List>,
    id: u64,
}

impl Drop for Injected {
    fn drop(&mut self) {
        if let Some(faults) = self.faults.upgrade() {
            faults.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _)| *id != self.id);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Arc<List>,
}

impl Faults {
    pub(super) fn inject(&self, fault: Fault) -> Injected {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let id = list.last().map_or(0, |(id, _)| id + 1);
        list.push((id, fault));
        Injected { faults: Arc::downgrade(&self.list), id }
    }

    /// What goes wrong with this request, in the order in which the faults were injected.
    pub(super) fn of(&self, request: &Request) -> Vec<Action> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = list.iter_mut().filter(|(_, fault)| fault.left != Some(0) && (fault.matches)(request));
        hit.map(|(_, fault)| {
            fault.left = fault.left.map(|left| left - 1);
            fault.action.clone()
        })
        .collect()
    }
}
