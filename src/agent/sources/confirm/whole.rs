//! Whole Nodes: how they are asked for, and what is read of them.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::core::Request;
use kube::{Client, Resource as _};
use serde::Deserialize;

use crate::config::ClusterRanges;
use crate::mesh::resolve::{Confirmed, Facts, node_addresses};

/// Nodes in a page of a list: some 4 MB of JSON.
pub(super) const PAGE: u32 = 250;

/// The Node of that name; none when there is none.
pub(super) async fn get(client: Client, name: String) -> Result<Option<WholeNode>, kube::Error> {
    let request = Request::new(Node::url_path(&(), None));
    let request = request.get(&name, &kube::api::GetParams::default());
    let request = request.map_err(kube::Error::BuildRequest)?;
    match client.request::<WholeNode>(request).await {
        Ok(node) => Ok(Some(node)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// The page of all Nodes that `token` names; the first one for an empty token.
pub(super) async fn page(client: &Client, token: &str) -> Result<Page, kube::Error> {
    let request = Request::new(Node::url_path(&(), None));
    let mut parameters = kube::api::ListParams::default().limit(PAGE);
    if !token.is_empty() {
        parameters = parameters.continue_token(token);
    }
    let request = request.list(&parameters).map_err(kube::Error::BuildRequest)?;
    client.request::<Page>(request).await
}

/// What is read of a whole Node: of 15 KiB, some 200 bytes.
#[derive(Debug, Deserialize)]
pub(super) struct WholeNode {
    pub(super) metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
    #[serde(default)]
    pub(super) uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) metadata: PageMetadata,
    pub(super) items: Vec<WholeNode>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PageMetadata {
    #[serde(default, rename = "continue")]
    pub(super) continue_token: String,
}

impl WholeNode {
    /// What the Node shows. Text that is not a CIDR confirms nothing; a CIDR outside the cluster's ranges is for
    /// [`resolve`](crate::mesh::resolve::resolve) to refuse. Only usable addresses count, and a bounded number of them.
    pub(super) fn confirm(self, asked: Facts, ranges: &ClusterRanges) -> Confirmed {
        let texts = self.spec.pod_cidrs.unwrap_or_else(|| self.spec.pod_cidr.into_iter().collect());
        let cidrs: Result<Vec<IpNet>, _> = texts.iter().map(|text| text.parse::<IpNet>()).collect();
        let mut pod_cidrs: Vec<IpNet> = cidrs.unwrap_or_default().iter().map(IpNet::trunc).collect();
        let internal = self.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        let node_addresses = node_addresses(ranges, internal.filter_map(|found| found.address.parse().ok()));
        pod_cidrs.sort_unstable();
        Confirmed { uid: self.metadata.uid, asked: Some(asked), facts: Facts { pod_cidrs, node_addresses } }
    }
}
