//! Services: which packets go to which endpoints of which Service. Pure, but for what writes the table.
//!
//! In the order in which a change passes: the [`object`]s of the API; the [`endpoints`] that serve a port here, in a stable
//! [`order`]; the [`plan`] of a Service; the [`balancer`] over all of them; `elements` of the kernel's [`table`], which both go by its `names`.
//! [`ranges`] are where cluster IPs are from. [`show`] lists them, and [`trace`] says what becomes of a packet. Whether this
//! agent serves them at all or kube-proxy does, [`coexistence`] says.

pub mod affinity;
pub mod balancer;
mod checks;
mod class;
pub mod coexistence;
mod draw;
mod elements;
pub mod endpoints;
mod kept;
mod loopback;
mod names;
mod number;
pub mod object;
pub mod order;
pub mod plan;
pub mod ranges;
mod read;
pub mod report;
pub mod reserved;
pub mod show;
pub mod stale;
pub mod sweeper;
pub mod table;
pub mod target;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod tracking;
