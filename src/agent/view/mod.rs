//! What the agent knows of the cluster: a typed store for each watched kind, with the fields that somebody reads.
//!
//! A [`store`] keeps objects and tells its subscribers what changed; [`own`] is this node's own object. The
//! [`sources`](super::sources) fill them. [`contest`] goes the other way: what the mesh controller wants to know again.

pub(super) mod contest;
pub(super) mod own;
pub(super) mod store;

use std::sync::Arc;

use crate::agent::cell::Cell;
use crate::mesh::resolve::{Confirmed, NodeClaims};
use crate::resource::key_revocation::Revocation;
use crate::resource::key_rotation::Asked;
use crate::service::object::{Service, Slice};
use contest::Contested;
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
    /// The ranges of every ServiceCIDR, as it has them.
    pub(super) service_cidrs: Arc<Store<Vec<String>>>,
    /// What is asked about this node's keys, with the answers.
    pub(super) key_rotations: Arc<Store<Asked>>,
    /// What operators have revoked.
    pub(super) key_revocations: Arc<Store<Revocation>>,
    /// The API server does not serve these objects.
    pub(super) revocations_unserved: Cell<bool>,
    /// What is to be served of every Service; none of one where that is nothing.
    pub(super) services: Arc<Store<Option<Service>>>,
    /// What is to be served of every EndpointSlice, likewise.
    pub(super) slices: Arc<Store<Option<Slice>>>,
    /// Nodes that others contest, and that are to be asked for again.
    pub(super) contested: Arc<Contested>,
}

impl View {
    pub(super) fn new(bus: super::control::Bus) -> Self {
        Self {
            own: Own::new(bus),
            nodes: Arc::default(),
            confirmed: Arc::default(),
            service_cidrs: Arc::default(),
            key_rotations: Arc::default(),
            key_revocations: Arc::default(),
            revocations_unserved: Cell::default(),
            services: Arc::default(),
            slices: Arc::default(),
            contested: Arc::default(),
        }
    }
}
