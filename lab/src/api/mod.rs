//! A small API server that speaks enough of the Kubernetes API for kube's client and runtime and for `kubectl`.
//!
//! A part of the lab and of tests, not a control plane: objects live in memory, generic over a table of resources
//! ([`resource`]), without schemas, controllers or scheduler. What it does do, it does as the real one: resource
//! versions, conflicts, watches with bookmarks and a bounded history, metadata-only and table answers, TLS and tokens.
//!
//! A request passes: [`Server`] (TLS, HTTP) -> `handler` (who, may they, [`Fault`]s) -> `verbs` -> [`Store`] -> `form`.

mod access;
mod answer;
mod audit;
mod call;
mod counters;
mod discovery;
mod event;
mod failure;
mod fault;
mod form;
mod handler;
mod object;
mod patch;
pub mod resource;
mod selector;
mod server;
mod state;
mod store;
mod stored;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod verbs;

pub use access::{Access, User};
pub use audit::Record;
pub use call::Request;
pub use counters::{Count, Counted};
pub use failure::Failure;
pub use fault::{Action, Fault, Injected};
pub use resource::Resource;
pub use server::{Server, StartError};
pub use state::{Admission, Mode, Options, Review};
pub use store::{Change, ChangeKind, Deletion, Expired, Removed, Store, Watch};
pub use stored::Object;
