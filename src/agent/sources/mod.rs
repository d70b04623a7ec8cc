//! The tasks that fill the view and the facts, and post a trigger for each change.
//!
//! [`reflect`] follows the watches on the API server, with what [`nodes`] takes from an object; [`confirm`] asks for whole
//! Nodes and adds what those say; [`servers`] asks whether the API server lives; [`kernel`] follows the kernel, [`session`] the
//! tunnel, and [`proxy`] whether kube-proxy lives.

pub(super) mod confirm;
pub(super) mod kernel;
mod nodes;
pub(super) mod proxy;
pub(super) mod reflect;
pub(super) mod servers;
pub(super) mod session;
