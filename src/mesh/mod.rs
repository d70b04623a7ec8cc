//! Who is whose peer: pure functions from what Nodes publish, and what was accepted before, to the peers of this
//! node. Nothing in here does I/O but [`record`] and [`revoked`], which keep the accepted claims and the revoked keys on
//! disk.
//!
//! In the order in which data passes: [`annotation`] reads what a Node says of itself, [`record`] is what was
//! believed so far, [`revoked`] what operators have revoked, [`resolve`](mod@resolve) decides, with a [`refusal`] for everything that it does not believe.

pub mod annotation;
pub mod node_object;
mod prefixes;
pub mod record;
pub mod refusal;
pub mod resolve;
pub mod revoked;

pub use annotation::NodeAnnotations;
pub use record::{Reach, Record, Records};
pub use refusal::{Reason, Refusal};
pub use resolve::{
    Confirmed, Fabric, Facts, Need, NodeClaims, ObservedNode, OwnClaims, Peer, PeerKeys, Resolution,
    endpoint_problem, need, node_addresses, resolve, superseded,
};
