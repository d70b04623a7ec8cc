//! The public keys that the nodes of a cluster publish, seen by an operator: an inventory of them, and what is wrong with them.
//!
//! What decides is pure: [`publication`] asks the API server for what Nodes publish, [`policy`] for what the organisation demands,
//! [`inventory`] and [`check`] follow from both; [`local`] looks at the files of one node.

pub mod check;
pub mod inventory;
pub mod local;
pub mod policy;
pub mod publication;
