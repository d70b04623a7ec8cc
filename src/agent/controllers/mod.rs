//! The controllers, a file each. Which triggers run them is in [`table`](super::table).

pub(super) mod admission;
pub(super) mod annotations;
pub(super) mod egress;
pub(super) mod forwarding;
pub(super) mod guard;
pub(super) mod key_policy;
pub(super) mod key_requests;
pub(super) mod keys;
pub(super) mod kube_proxy;
pub(super) mod link;
pub(super) mod mesh;
pub(super) mod plugin;
pub(super) mod ports;
pub(super) mod ranges;
pub(super) mod revocations;
pub(super) mod rotation;
pub(super) mod routes;
pub(super) mod service_events;
pub(super) mod services;
pub(super) mod sysctls;
pub(super) mod tunnel;
pub(super) mod wiring;
