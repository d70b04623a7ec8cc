//! Discovery and tables, as `kubectl` asks for them.

use kube::discovery::{Discovery, Scope};
use serde_json::Value;

use super::Lab;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn every_resource_is_discovered() {
    let lab = Lab::new().await;
    let plain = Discovery::new(lab.client.clone()).run().await.unwrap();
    let aggregated = Discovery::new(lab.client.clone()).run_aggregated().await.unwrap();
    for discovery in [plain, aggregated] {
        let found = discovery.groups().flat_map(|group| group.recommended_resources()).count();
        assert_eq!(found, crate::api::resource::ALL.len());
        let (slices, capabilities) = discovery
            .resolve_gvk(&kube::core::GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice"))
            .unwrap();
        assert_eq!((slices.plural.as_str(), capabilities.scope), ("endpointslices", Scope::Namespaced));
    }
}

#[tokio::test]
async fn what_is_asked_for_is_in_the_media_type() {
    let lab = Lab::new().await;
    let kind = |value: Value| value["kind"].as_str().unwrap().to_owned();
    assert_eq!(kind(lab.raw("/apis", AGGREGATED).await), "APIGroupDiscoveryList");
    assert_eq!(kind(lab.raw("/apis", "application/json").await), "APIGroupList");
    assert_eq!(kind(lab.raw("/api/v1/nodes", "application/json").await), "NodeList");
    assert_eq!(lab.raw("/apis/events.k8s.io/v1/events", "*/*").await["apiVersion"], "events.k8s.io/v1");
    lab.add_node("n0");
    let table = lab.raw("/api/v1/nodes", TABLE).await;
    assert_eq!(table["kind"], "Table");
    let cells = &table["rows"][0]["cells"];
    assert_eq!([&cells[0], &cells[1]], ["n0", "Unknown"]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["columnDefinitions"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn validation_is_left_to_the_server() {
    let lab = Lab::new().await;
    let index = lab.raw("/openapi/v3", "*/*").await;
    let url = index["paths"]["apis/networking.k8s.io/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = lab.raw(&url, "*/*").await;
    let patch = &document["paths"]["/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/{name}"]
        ["patch"];
    assert_eq!(patch["parameters"][0]["name"], "fieldValidation");
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "NetworkPolicy");
}
