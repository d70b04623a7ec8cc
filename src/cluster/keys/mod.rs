//! The keys of many nodes, rotated by an operator: one KeyRotation for each node.
//!
//! [`fleet`] reads what there is, [`plan`] decides which nodes take part and how fast, [`turns`] which of them is next, and
//! [`operation`] writes the objects and follows them. [`revocation`] takes the trust from keys.

pub mod fleet;
pub mod operation;
pub mod plan;
pub mod revocation;
pub mod turns;
