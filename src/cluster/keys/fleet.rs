//! The nodes with their keys, and the rotations that there are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use crate::cluster::{Error, absent};
use crate::keyring::publication;
use crate::mesh::annotation::{self, PUBLIC_KEY};
use crate::resource::KeyRotation;

/// Objects that one request asks for.
const PAGE: u32 = 500;

/// The key that a node uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKey {
    /// Name of the Node.
    pub node: String,
    /// Number of the key, and when it was made; or why that cannot be read.
    pub key: Result<(u64, Option<Timestamp>), String>,
}

/// Nodes that are members, and what is asked of them.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// How many Nodes there are, members or not: each runs an agent that watches all Nodes.
    pub agents: usize,
    /// The members, by name.
    pub nodes: Vec<NodeKey>,
    /// KeyRotations by name of the Node.
    pub rotations: BTreeMap<String, KeyRotation>,
}

impl Fleet {
    /// Reads both, a page at a time.
    ///
    /// # Errors
    /// When the API server does not answer, refuses, or has no KeyRotations.
    pub async fn look(client: &Client) -> Result<Self, Error> {
        let published = publication::fetch(client).await?;
        let members = published.iter().filter(|node| node.annotations.contains_key(PUBLIC_KEY));
        let nodes = members.map(|node| NodeKey { node: node.node.clone(), key: key(&node.annotations) });
        Ok(Self { agents: published.len(), nodes: nodes.collect(), rotations: rotations(client).await? })
    }
}

fn key(annotations: &BTreeMap<String, String>) -> Result<(u64, Option<Timestamp>), String> {
    let parsed = annotation::parse(annotations);
    let parsed = parsed.map_err(|errors| errors.first().map(ToString::to_string).unwrap_or_default())?;
    parsed.map(|shown| (shown.key_epoch, shown.key_created)).ok_or_else(|| "has no key".to_owned())
}

async fn rotations(client: &Client) -> Result<BTreeMap<String, KeyRotation>, Error> {
    let api: Api<KeyRotation> = Api::all(client.clone());
    let mut found = BTreeMap::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page =
            absent(api.list(&params).await).map_err(|error| Error::call("list the KeyRotations", error))?;
        let Some(page) = page else {
            return Err(Error::Config(
                "this cluster has no KeyRotations: apply deploy/base/resources.yaml, or run `selvedge install`".into(),
            ));
        };
        found.extend(page.items.into_iter().map(|object| (object.name_any(), object)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}
