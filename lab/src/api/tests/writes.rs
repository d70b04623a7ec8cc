//! Create, update, patch and delete.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event as CoreEvent, Namespace, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::{Lab, code};
use crate::api::resource::{NODES, PODS};
use crate::api::{Admission, Deletion, Failure, Options};

fn pod(value: serde_json::Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn created_objects_have_an_identity() {
    let lab = Lab::new().await;
    let create = |value| async { lab.pods().create(&PostParams::default(), &pod(value)).await };
    let made =
        create(json!({"metadata": {"generateName": "web-"}, "status": {"phase": "Running"}})).await.unwrap();
    assert!(made.name_any().starts_with("web-") && made.name_any().len() == 9, "{}", made.name_any());
    assert!(made.uid().is_some() && made.resource_version().is_some() && made.creation_timestamp().is_some());
    assert_eq!(made.status.unwrap().phase.unwrap(), "Pending", "a status is not created");
    assert_eq!(lab.pods().get(&made.metadata.name.clone().unwrap()).await.unwrap().metadata, made.metadata);
    assert_eq!(code(create(json!({"metadata": {"name": made.metadata.name}})).await), 409);
    assert_eq!(code(create(json!({"metadata": {}})).await), 422);
    assert_eq!(code(create(json!({"metadata": {"name": "x", "resourceVersion": "1"}})).await), 400);
    assert_eq!(code(create(json!({"metadata": {"name": "x", "namespace": "other"}})).await), 400);
    let elsewhere: Api<Pod> = Api::namespaced(lab.client.clone(), "nowhere");
    let refused = elsewhere.create(&PostParams::default(), &pod(json!({"metadata": {"name": "x"}}))).await;
    assert_eq!(code(refused), 404);
}

#[tokio::test]
async fn a_patch_is_for_the_version_and_uid_it_names() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let old = lab.nodes().get("n0").await.unwrap();
    let patch = |uid: Option<String>, version: Option<String>, value: &str| {
        let patch = json!({"metadata":
            {"uid": uid, "resourceVersion": version, "annotations": {"selvedge.dev/x": value}}});
        let nodes = lab.nodes();
        async move { nodes.patch_metadata("n0", &PatchParams::default(), &Patch::Merge(patch)).await }
    };
    let new = patch(old.uid(), old.resource_version(), "1").await.unwrap();
    assert_eq!(new.annotations()["selvedge.dev/x"], "1");
    assert_ne!(new.resource_version(), old.resource_version());
    assert_eq!(code(patch(old.uid(), old.resource_version(), "2").await), 409, "an old version");
    assert_eq!(code(patch(Some("other".to_owned()), new.resource_version(), "2").await), 409, "another UID");
    let same = patch(new.uid(), new.resource_version(), "1").await.unwrap();
    assert_eq!(same.resource_version(), new.resource_version(), "nothing changed");
}

#[tokio::test]
async fn an_update_is_for_its_version() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let mut node = lab.nodes().get("n0").await.unwrap();
    node.labels_mut().insert("a".to_owned(), "b".to_owned());
    let new = lab.nodes().replace("n0", &PostParams::default(), &node).await.unwrap();
    assert_eq!(new.labels()["a"], "b");
    assert_eq!(code(lab.nodes().replace("n0", &PostParams::default(), &node).await), 409);
}

#[tokio::test]
async fn status_and_the_rest_are_written_apart() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"podCIDRs": ["10.0.0.0/24"]}, "status": {"phase": "Running"}}));
    let main = lab.nodes().patch("n0", &PatchParams::default(), &patch).await.unwrap();
    assert!(main.status.is_none() && main.spec.is_some());
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "c"}},
        "spec": {"podCIDRs": ["10.9.0.0/24"]}, "status": {"phase": "Running"}}));
    let status = lab.nodes().patch_status("n0", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(status.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(status.labels()["a"], "c", "as the real server allows it");
    assert_eq!(status.spec.unwrap().pod_cidrs.unwrap(), ["10.0.0.0/24"]);
}

#[tokio::test]
async fn apply_creates_and_merges() {
    let lab = Lab::new().await;
    let params = PatchParams::apply("test");
    let apply = |annotations| {
        let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n0", "annotations": annotations}});
        let (nodes, params) = (lab.nodes(), params.clone());
        async move { nodes.patch("n0", &params, &Patch::Apply(node)).await.unwrap() }
    };
    apply(json!({"a": "1"})).await;
    assert_eq!(apply(json!({"b": "2"})).await.annotations().len(), 2);
    let steps = json!([{"op": "remove", "path": "/metadata/annotations/a"}]);
    let steps = Patch::<Node>::Json(serde_json::from_value(steps).unwrap());
    let node = lab.nodes().patch("n0", &PatchParams::default(), &steps).await.unwrap();
    assert_eq!(node.annotations().keys().collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn more_annotation_than_the_real_server_takes_is_refused() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"a": "x".repeat(256 << 10)}}}));
    assert_eq!(code(lab.nodes().patch("n0", &PatchParams::default(), &patch).await), 422);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"a": "x".repeat(4 << 20)}}}));
    assert_eq!(code(lab.nodes().patch("n0", &PatchParams::default(), &patch).await), 413);
}

#[tokio::test]
async fn deletions_mind_what_they_are_told() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let only = |uid: &str| DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    assert_eq!(code(lab.nodes().delete("n0", &only("other")).await), 409);
    let uid = lab.nodes().get("n0").await.unwrap().uid().unwrap();
    assert!(lab.nodes().delete("n0", &only(&uid)).await.unwrap().is_right());
    assert_eq!(code(lab.nodes().get("n0").await), 404);

    let finalizers = json!({"metadata": {"name": "n1", "finalizers": ["a/b"]}});
    lab.server.store().create(&NODES, finalizers).unwrap();
    let held = lab.nodes().delete("n1", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(held.metadata.deletion_timestamp.is_some());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    lab.nodes().patch("n1", &PatchParams::default(), &free).await.unwrap();
    assert_eq!(code(lab.nodes().get("n1").await), 404);
}

#[tokio::test]
async fn collections_and_namespaces_go_with_what_is_in_them() {
    let lab = Lab::new().await;
    lab.add_pod("a", "n0");
    lab.add_pod("b", "n1");
    let there = ListParams::default().fields("spec.nodeName=n1");
    lab.pods().delete_collection(&DeleteParams::default(), &there).await.unwrap();
    let left = lab.pods().list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(), ["a"]);
    Api::<Namespace>::all(lab.client.clone()).delete("default", &DeleteParams::default()).await.unwrap();
    assert!(Api::<Pod>::all(lab.client.clone()).list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_running_pod_terminates_until_its_node_lets_go() {
    let lab = Lab::with(Options { graceful_pods: true, ..Options::default() }).await;
    lab.add_pod("runs", "n0");
    lab.add_pod("waits", "");
    assert!(lab.pods().delete("waits", &DeleteParams::default()).await.unwrap().is_right());
    let pod = lab.pods().delete("runs", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(30));
    assert!(lab.pods().delete("runs", &DeleteParams::default()).await.unwrap().is_left());
    lab.server.store().delete(&PODS, "default", "runs", &Deletion::default()).unwrap();
    assert_eq!(code(lab.pods().get("runs").await), 404);
}

#[tokio::test]
async fn admission_schedules_and_refuses() {
    let admission: Admission = Arc::new(|review, object| match (review.resource.plural, review.before) {
        ("pods", None) => {
            object["spec"]["nodeName"] = "n0".into();
            Ok(())
        }
        ("nodes", Some(_)) => Err(Failure::forbidden(format!("not {}", review.user.name))),
        _ => Ok(()),
    });
    let lab = Lab::with(Options { admission: Some(admission), ..Options::default() }).await;
    lab.add_node("n0");
    let made =
        lab.pods().create(&PostParams::default(), &pod(json!({"metadata": {"name": "a"}}))).await.unwrap();
    assert_eq!(made.spec.unwrap().node_name.unwrap(), "n0");
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(code(lab.nodes().patch("n0", &PatchParams::default(), &patch).await), 403);
}

#[tokio::test]
async fn events_are_recorded_and_seen_in_both_groups() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let reporter = Reporter { controller: "selvedge".to_owned(), instance: Some("n0".to_owned()) };
    let recorder = Recorder::new(lab.agent("n0").await, reporter);
    let node = lab.nodes().get("n0").await.unwrap().object_ref(&());
    let event = |note: &str| Event {
        type_: EventType::Warning,
        reason: "PeerRefused".to_owned(),
        note: Some(note.to_owned()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    recorder.publish(&event("a key of another node"), &node).await.unwrap();
    recorder.publish(&event("a key of another node"), &node).await.unwrap();
    let core: Api<CoreEvent> = Api::default_namespaced(lab.client.clone());
    let all = core.list(&ListParams::default().fields("involvedObject.name=n0")).await.unwrap().items;
    assert_eq!(all.len(), 1, "the second is counted, in the first");
    assert_eq!(all[0].message.as_deref(), Some("a key of another node"));
    assert_eq!(all[0].series.as_ref().unwrap().count, Some(2));
    let mut long = event(&"x".repeat(2000));
    long.reason = "Other".to_owned();
    let refused = recorder.publish(&long, &node).await;
    assert_eq!(code(refused), 422);
}
