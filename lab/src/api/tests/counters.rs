//! What is counted of requests and answers.

use futures::StreamExt as _;
use kube::Api;
use kube::api::{ListParams, WatchParams};

use super::{Lab, within};
use crate::api::{Count, Counted};

#[tokio::test]
async fn requests_and_bytes_are_counted_by_user_and_verb() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(lab.agent("n0").await);
    let count = |verb| {
        let (user, subresource) = ("agent:n0".to_owned(), String::new());
        let counted = Counted { user, verb, resource: "nodes", subresource };
        lab.server.counts().get(&counted).copied().unwrap_or_default()
    };
    nodes.list(&ListParams::default()).await.unwrap();
    nodes.get("n0").await.unwrap();
    nodes.get_opt("none").await.unwrap();
    let text = lab.raw("/api/v1/nodes/n0", "application/json").await.to_string();
    assert_eq!(count("get").requests, 2, "those of others are apart");
    assert!(count("get").bytes > u64::try_from(text.len()).unwrap());
    assert_eq!(count("list").requests, 1);
    assert_eq!(count("watch"), Count::default());
    let mut events = nodes.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    within("the first event", events.next()).await;
    let begun = count("watch");
    lab.annotate("n0", "x");
    within("the change", events.next()).await;
    assert_eq!((begun.requests, count("watch").requests), (1, 1));
    assert!(count("watch").bytes > begun.bytes, "as they are sent");
}
