//! Users and faults.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::{Lab, client, code, within};
use crate::api::{Action, Failure, Fault, Mode};

#[tokio::test]
async fn strangers_are_turned_away() {
    let lab = Lab::new().await;
    let config = lab.server.kubeconfig("admin", &lab.url);
    lab.server.add_user(crate::api::User::admin("admin"));
    let stranger = client(&config).await;
    let nodes = Api::<Node>::all(stranger.clone());
    assert_eq!(code(nodes.list(&ListParams::default()).await), 401, "its token was replaced");
    assert!(stranger.apiserver_version().await.is_ok(), "anyone may ask for the version");
}

#[tokio::test]
async fn an_agent_changes_no_node_but_its_own() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    lab.add_node("n1");
    let client = lab.agent("n0").await;
    let nodes = Api::<Node>::all(client.clone());
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    nodes.patch("n0", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(code(nodes.patch("n1", &PatchParams::default(), &patch).await), 403);
    assert_eq!(code(Api::<Secret>::all(client).list(&ListParams::default()).await), 403);
    let log = lab.server.requests();
    let patches = log.iter().filter(|record| record.request.verb == "patch");
    let patches: Vec<_> = patches.map(|record| (record.request.name.as_str(), record.code)).collect();
    assert_eq!(patches, [("n0", 200), ("n1", 403)]);
    assert!(log.iter().all(|record| record.request.user == "agent:n0"));
}

#[tokio::test]
async fn faults_hit_what_they_are_for_and_go_away() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let get = || async { lab.nodes().get("n0").await };
    let fail = |failure| Fault::new(Action::Fail(failure)).when(|request| request.verb == "get");
    let fault = lab.server.inject(fail(Failure::new(403, "Forbidden", "on order")));
    assert_eq!(code(get().await), 403);
    assert!(lab.nodes().list(&ListParams::default()).await.is_ok(), "another verb");
    drop(fault);
    assert!(get().await.is_ok());
    let once = lab.server.inject(fail(Failure::internal()).times(1));
    assert_eq!(code(get().await), 500);
    assert!(get().await.is_ok());
    drop(once);
    let _drop = lab.server.inject(Fault::new(Action::Drop).times(1));
    assert!(!matches!(get().await, Ok(_) | Err(kube::Error::Api(_))), "no answer");
    let late = Duration::from_millis(50);
    let _late = lab.server.inject(Fault::new(Action::Delay(late)));
    let start = Instant::now();
    get().await.unwrap();
    assert!(start.elapsed() >= late);
}

#[tokio::test]
async fn too_many_requests_say_when_to_come_back() {
    let lab = Lab::new().await;
    let _fault = lab.server.inject(Fault::new(Action::Fail(Failure::too_many_requests(1))).times(1));
    match within("the answer", lab.nodes().list(&ListParams::default())).await {
        Ok(_) => assert_eq!(lab.server.requests().len(), 2, "the client came back by itself"),
        Err(kube::Error::Api(status)) => assert_eq!(status.details.unwrap().retry_after_seconds, 1),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_server_that_is_down_or_hangs_keeps_its_state() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let get = || async { lab.nodes().get("n0").await };
    get().await.unwrap();
    lab.server.set_mode(Mode::Refusing);
    assert!(!matches!(get().await, Ok(_) | Err(kube::Error::Api(_))), "no answer");
    lab.server.set_mode(Mode::Hanging);
    let hangs = tokio::time::timeout(Duration::from_millis(50), get()).await;
    assert!(hangs.is_err(), "{hangs:?}");
    lab.server.set_mode(Mode::Serving);
    within("the node", get()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_lets_go_of_its_port() {
    let lab = Lab::new().await;
    let address = lab.url.strip_prefix("https://").unwrap().to_owned();
    drop(lab);
    within("the port to close", async {
        while tokio::net::TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
