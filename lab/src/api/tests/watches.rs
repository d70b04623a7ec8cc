//! Lists and watches.

use std::fmt::Debug;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use std::time::Duration;

use super::{Lab, next};
use crate::api::resource::{NODES, PODS};
use crate::api::{ChangeKind, Deletion, Mode, Options, Store};

type Meta = PartialObjectMeta<Node>;

fn told<K: kube::ResourceExt>(event: &Event<K>) -> String {
    match event {
        Event::Init => "init".to_owned(),
        Event::InitApply(object) => format!("init {}", object.name_any()),
        Event::InitDone => "done".to_owned(),
        Event::Apply(object) => format!("apply {}", object.name_any()),
        Event::Delete(object) => format!("delete {}", object.name_any()),
    }
}

/// The next events of a watcher; its errors are what it recovers from.
async fn tell<K: kube::ResourceExt + Debug>(
    count: usize,
    events: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin),
) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(next(&format!("{count} events, has {all:?}"), events).await.ok().as_ref().map(told));
    }
    all
}

async fn raw(lab: &Lab, params: &WatchParams, version: &str) -> BoxStream<'static, WatchEvent<Node>> {
    let events = lab.nodes().watch(params, version).await.unwrap();
    events.map(Result::unwrap).boxed()
}

#[tokio::test]
async fn lists_come_in_pages_of_one_version() {
    let lab = Lab::new().await;
    (0..5).for_each(|index| lab.add_node(&format!("n{index}")));
    let mut params = ListParams::default().limit(2);
    let (mut names, mut versions) = (Vec::new(), Vec::new());
    loop {
        let page = lab.nodes().list(&params).await.unwrap();
        names.extend(page.items.iter().map(|node| node.name_any()));
        versions.push(page.metadata.resource_version.clone().unwrap());
        lab.annotate("n0", &versions.len().to_string());
        match page.metadata.continue_ {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["n0", "n1", "n2", "n3", "n4"]);
    assert_eq!(versions.len(), 3);
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
}

#[tokio::test]
async fn later_pages_show_what_there_was_at_the_first() {
    let lab = Lab::new().await;
    (0..4).for_each(|index| lab.add_node(&format!("n{index}")));
    let first = lab.nodes().list(&ListParams::default().limit(1)).await.unwrap();
    lab.annotate("n1", "later");
    lab.annotate("n1", "later still");
    lab.server.store().delete(&NODES, "", "n2", &Deletion::default()).unwrap();
    lab.server.store().delete(&NODES, "", "n3", &Deletion::default()).unwrap();
    lab.add_node("n3");
    lab.add_node("n4");
    let before = first.metadata.resource_version.clone().unwrap();
    let params = ListParams::default().continue_token(&first.metadata.continue_.unwrap());
    let rest = lab.nodes().list(&params).await.unwrap();
    let names: Vec<_> = rest.items.iter().map(|node| node.name_any()).collect();
    assert_eq!(names, ["n1", "n2", "n3"]);
    assert!(rest.items.iter().all(|node| node.annotations().is_empty()));
    assert_eq!(rest.metadata.resource_version, Some(before.clone()));
    let exact = format!("/api/v1/nodes?resourceVersion={before}&resourceVersionMatch=Exact");
    assert_eq!(lab.raw(&exact, "*/*").await["items"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_page_of_a_forgotten_list_has_expired() {
    let lab = Lab::new().await;
    (0..2).for_each(|index| lab.add_node(&format!("n{index}")));
    let first = lab.nodes().list(&ListParams::default().limit(1)).await.unwrap();
    lab.annotate("n0", "later");
    lab.server.expire_history();
    let params = ListParams::default().limit(1).continue_token(&first.metadata.continue_.unwrap());
    assert_eq!(super::code(lab.nodes().list(&params).await), 410);
}

#[tokio::test]
async fn metadata_is_watched_alone() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    lab.add_node("n1");
    let config = watcher::Config::default().page_size(1);
    let mut events = watcher(Api::<Meta>::all(lab.client.clone()), config).boxed();
    assert_eq!(tell(4, &mut events).await, ["init", "init n0", "init n1", "done"]);
    lab.annotate("n1", "x");
    assert_eq!(tell(1, &mut events).await, ["apply n1"]);
    lab.server.store().delete(&NODES, "", "n0", &Deletion::default()).unwrap();
    assert_eq!(tell(1, &mut events).await, ["delete n0"]);
    let asked = lab.server.requests();
    let metadata = |verb| {
        let accept = &asked.iter().find(|record| record.request.verb == verb).unwrap().request.accept;
        assert!(accept.contains("as=PartialObjectMetadata"), "{accept}");
    };
    metadata("list");
    metadata("watch");
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_bookmark() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let mut events =
        watcher(Api::<Meta>::all(lab.client.clone()), watcher::Config::default().streaming_lists()).boxed();
    assert_eq!(tell(3, &mut events).await, ["init", "init n0", "done"]);
    lab.annotate("n0", "x");
    assert_eq!(tell(1, &mut events).await, ["apply n0"]);
    assert!(lab.server.requests().iter().all(|record| record.request.verb != "list"));
}

#[tokio::test]
async fn a_broken_watch_resumes_and_an_expired_one_lists_again() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let mut events = watcher(lab.nodes(), watcher::Config::default()).boxed();
    assert_eq!(tell(3, &mut events).await, ["init", "init n0", "done"]);
    lab.annotate("n0", "1");
    assert_eq!(tell(1, &mut events).await, ["apply n0"]);
    lab.server.cut_watches();
    lab.annotate("n0", "2");
    assert_eq!(tell(1, &mut events).await, ["apply n0"], "resumed");
    let watches = lab.server.requests().iter().filter(|record| record.request.verb == "watch").count();
    assert_eq!(watches, 2, "it did break");
    lab.server.set_mode(Mode::Refusing);
    lab.annotate("n0", "3");
    lab.server.expire_history();
    lab.server.set_mode(Mode::Serving);
    assert_eq!(tell(3, &mut events).await, ["init", "init n0", "done"], "listed again");
}

#[tokio::test]
async fn a_lost_object_is_in_no_list_and_no_event_reports_its_deletion() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    lab.add_node("n1");
    let mut events = watcher(lab.nodes(), watcher::Config::default()).boxed();
    assert_eq!(tell(4, &mut events).await, ["init", "init n0", "init n1", "done"]);
    lab.server.store().lose(&NODES, "", "n0").unwrap();
    assert_eq!(tell(3, &mut events).await, ["init", "init n1", "done"]);
    assert_eq!(super::code(lab.nodes().get("n0").await), 404);
}

#[tokio::test]
async fn too_old_a_version_is_an_error_event() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    lab.server.expire_history();
    let mut events = raw(&lab, &WatchParams::default(), "2").await;
    match next("the error", &mut events).await {
        WatchEvent::Error(status) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn history_is_bounded() {
    let lab = Lab::with(Options { history: 3, ..Options::default() }).await;
    lab.add_node("n0");
    let version = lab.server.store().version();
    let mut watch = lab.server.store().watch(&NODES, version);
    (0..3).for_each(|index| lab.annotate("n0", &index.to_string()));
    for _ in 0..3 {
        assert_eq!(watch.next().await.unwrap().kind, ChangeKind::Modified);
    }
    let mut late = lab.server.store().watch(&NODES, version);
    lab.annotate("n0", "one too many");
    assert_eq!(late.next().await.unwrap_err().0, version);
    assert_eq!(watch.next().await.unwrap().version, version + 4);
}

#[tokio::test]
async fn bookmarks_tell_of_versions_of_other_objects() {
    let lab = Lab::with(Options { bookmarks: Duration::from_millis(20), ..Options::default() }).await;
    let start = lab.server.store().version();
    let mut events = raw(&lab, &WatchParams::default(), &start.to_string()).await;
    lab.add_pod("other", "");
    super::within("a newer bookmark", async {
        loop {
            match events.next().await {
                Some(WatchEvent::Bookmark(mark)) => {
                    if mark.metadata.resource_version == (start + 1).to_string() {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    let mut plain = raw(&lab, &WatchParams::default().disable_bookmarks(), &start.to_string()).await;
    lab.add_node("n0");
    assert!(matches!(next("the node", &mut plain).await, WatchEvent::Added(_)));
}

#[tokio::test]
async fn a_watch_ends_after_its_time() {
    let lab = Lab::new().await;
    let events = raw(&lab, &WatchParams::default().timeout(1), "0").await;
    let events: Vec<_> = super::within("the end of the watch", events.collect()).await;
    assert!(matches!(events.as_slice(), [WatchEvent::Bookmark(_)]), "{events:?}");
}

#[tokio::test]
async fn objects_come_into_sight_and_leave_it() {
    let lab = Lab::new().await;
    lab.add_pod("a", "");
    let params = WatchParams::default().fields("spec.nodeName=n0");
    let mut events =
        lab.pods().watch(&params, &lab.server.store().version().to_string()).await.unwrap().boxed();
    let store = lab.server.store();
    for node in ["n1", "n0", "n0", "n1"] {
        let labels = json!({"v": store.version().to_string()});
        let patch = json!({"metadata": {"labels": labels}, "spec": {"nodeName": node}});
        store.patch(&PODS, "default", "a", &patch).unwrap();
    }
    assert!(matches!(next("the binding", &mut events).await.unwrap(), WatchEvent::Added(_)));
    assert!(matches!(next("the change", &mut events).await.unwrap(), WatchEvent::Modified(_)));
    assert!(matches!(next("the leave", &mut events).await.unwrap(), WatchEvent::Deleted(_)));
    assert_eq!(
        lab.pods().list(&ListParams::default().fields("spec.nodeName=n0")).await.unwrap().items.len(),
        0
    );
    assert_eq!(
        lab.pods().list(&ListParams::default().fields("spec.nodeName=n1")).await.unwrap().items.len(),
        1
    );
}

#[tokio::test]
async fn a_watch_of_everything_begins_with_what_there_is() {
    let lab = Lab::new().await;
    lab.add_node("n0");
    let mut events = lab.nodes().watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let first = events.try_next().await.unwrap();
    assert!(matches!(&first, Some(WatchEvent::Added(node)) if node.name_any() == "n0"), "{first:?}");
}

#[tokio::test]
async fn the_lab_watches_without_http() {
    let store = Store::new(10);
    let mut watch = store.watch(&PODS, store.version());
    store.create(&PODS, json!({"metadata": {"generateName": "web-"}})).unwrap();
    let change = watch.next().await.unwrap();
    assert_eq!(change.kind, ChangeKind::Added);
    assert!(change.object["metadata"]["name"].as_str().unwrap().starts_with("web-"));
}
