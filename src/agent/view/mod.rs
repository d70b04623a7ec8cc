//! What the agent knows of the cluster: a typed store for each watched kind, with the fields that somebody reads.
//!
//! In the order in which an object passes: [`reflect`] follows a watch, [`nodes`] and [`own`] take from an object what is
//! needed, [`store`] keeps it and tells subscribers what changed; [`confirm`] asks for whole Nodes and adds what those say.

pub(super) mod confirm;
pub(super) mod nodes;
pub(super) mod own;
pub(super) mod reflect;
pub(super) mod store;

use std::sync::Arc;

use crate::mesh::resolve::{Confirmed, NodeClaims};
use own::Own;
use store::Store;

/// What the agent knows of the cluster.
pub(super) struct View {
    /// This node's own object.
    pub(super) own: Own,
    /// What every Node publishes, this one included.
    pub(super) nodes: Arc<Store<NodeClaims>>,
    /// What a GET of a whole Node has confirmed. Synced once every Node of the first list has been asked for.
    pub(super) confirmed: Arc<Store<Confirmed>>,
}

impl View {
    pub(super) fn new(bus: super::control::Bus) -> Self {
        Self { own: Own::new(bus), nodes: Arc::default(), confirmed: Arc::default() }
    }
}
