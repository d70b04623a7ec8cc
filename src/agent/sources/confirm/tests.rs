//! The agenda, and the source against an API server in memory.

mod pace;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;
use kube::Client;
use kube::client::Body;
use selvedge_keys::PrivateKey;
use serde_json::{Value, json};
use tower::service_fn;

use super::agenda::FIRST_PAUSE;
use super::*;
use crate::agent::control::Bus;
use crate::mesh::annotation::{self, KEY_EPOCH, MAX_NODE_ADDRESSES, NODE_ADDRESSES, POD_CIDRS, PUBLIC_KEY};
use crate::mesh::resolve::Facts;
use crate::observe::metrics::Metrics;

#[test]
fn pauses_grow_and_a_new_claim_is_asked_for_at_once() {
    let (mut agenda, start) = (Agenda::default(), Instant::now());
    agenda.ask("a", start);
    assert_eq!(agenda.due(start), ["a"]);
    agenda.answered("a", "7", start);
    assert_eq!((agenda.due(start).len(), agenda.asked_at("a")), (0, Some("7")));
    let mut now = start;
    for _ in 0..12 {
        now = agenda.next().unwrap();
        agenda.ask_again("a", now);
    }
    let pause = agenda.next().unwrap() - now;
    assert!(pause >= LAST_PAUSE / 2 && pause <= LAST_PAUSE, "{pause:?}");
    agenda.ask("a", now);
    assert_eq!((agenda.due(now).len(), agenda.asked_at("a")), (1, None));
    agenda.forget("a");
    assert_eq!(agenda.next(), None);
}

#[test]
fn what_a_whole_node_shows() {
    let crowd = (0..40).map(|number| format!("198.51.100.{number}"));
    let internal =
        ["192.0.2.2", "10.1.2.7", "127.0.0.1", "192.0.2.1"].map(str::to_owned).into_iter().chain(crowd);
    let mut addresses: Vec<Value> =
        internal.map(|address| json!({"type": "InternalIP", "address": address})).collect();
    addresses.push(json!({"type": "Hostname", "address": "a"}));
    let node = json!({
        "metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}},
        "spec": {"podCIDR": "10.1.2.0/24", "podCIDRs": ["fd00::/64", "10.1.2.3/24"]},
        "status": {"images": [{"names": ["x"]}], "addresses": addresses},
    });
    let node: WholeNode = serde_json::from_value(node).unwrap();
    let ranges = ClusterRanges { pods: vec!["10.1.0.0/16".parse().unwrap()], services: Vec::new() };
    let confirmed = node.confirm(Facts::default(), &ranges);
    assert_eq!(
        confirmed.facts.pod_cidrs,
        ["10.1.2.0/24".parse().unwrap(), "fd00::/64".parse::<IpNet>().unwrap()]
    );
    let texts = confirmed.facts.node_addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts[..3], ["192.0.2.1", "192.0.2.2", "198.51.100.0"], "usable ones, ascending");
    assert_eq!(texts.len(), MAX_NODE_ADDRESSES);
    let odd = json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.2.0/24", "x"]}});
    let odd: WholeNode = serde_json::from_value(odd).unwrap();
    assert_eq!(odd.confirm(Facts::default(), &ranges).facts, Facts::default());
}

/// An API server that has Nodes and nothing else.
#[derive(Default)]
struct Server {
    nodes: Mutex<BTreeMap<String, Value>>,
    /// Path and query of each request.
    requests: Mutex<Vec<String>>,
    /// When each came.
    times: Mutex<Vec<Instant>>,
    /// Requests that wait for their answer, and the most that there were at once.
    waiting: AtomicUsize,
    most_waiting: AtomicUsize,
    /// Nodes in a page at most, however many are asked for.
    most_items: Mutex<Option<usize>>,
    /// Requests with this text in them fail, so many times.
    failing: Mutex<(&'static str, usize)>,
}

/// The API server takes this long for an answer, so that requests which are made at once wait at once.
const ANSWERING: Duration = Duration::from_millis(2);

impl Server {
    fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = service_fn(move |request: http::Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                server.times.lock().unwrap().push(Instant::now());
                let waiting = server.waiting.fetch_add(1, Ordering::Relaxed) + 1;
                server.most_waiting.fetch_max(waiting, Ordering::Relaxed);
                let (code, body) = server.answer(request.uri());
                tokio::time::sleep(ANSWERING).await;
                server.waiting.fetch_sub(1, Ordering::Relaxed);
                let body = Body::from(body.to_string().into_bytes());
                let answer = http::Response::builder().status(code).body(body).unwrap();
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, uri: &http::Uri) -> (u16, Value) {
        self.requests.lock().unwrap().push(uri.to_string());
        let status = |code: u16| {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "message": "no", "reason": "", "code": code}),
            )
        };
        let mut failing = self.failing.lock().unwrap();
        if failing.1 > 0 && uri.to_string().contains(failing.0) {
            failing.1 -= 1;
            return status(500);
        }
        let nodes = self.nodes.lock().unwrap();
        if let Some(name) = uri.path().strip_prefix("/api/v1/nodes/") {
            return nodes.get(name).map_or_else(|| status(404), |node| (200, node.clone()));
        }
        let parameter =
            |name: &str| uri.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let limit: usize = parameter("limit").map_or(usize::MAX, |text| text.parse().unwrap());
        let limit = self.most_items.lock().unwrap().map_or(limit, |most| most.min(limit));
        let from: usize = parameter("continue").map_or(0, |text| text.parse().unwrap());
        let items: Vec<Value> = nodes.values().skip(from).take(limit).cloned().collect();
        let next =
            if from + items.len() < nodes.len() { (from + items.len()).to_string() } else { String::new() };
        (200, json!({"metadata": {"continue": next}, "items": items}))
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// A running source, and what it works on.
struct Bench {
    server: Arc<Server>,
    nodes: Arc<Store<NodeClaims>>,
    confirmed: Arc<Store<Confirmed>>,
    contested: Arc<Contested>,
    task: tokio::task::JoinHandle<()>,
}

fn parts(server: &Arc<Server>, grace: Duration) -> Confirmer {
    Confirmer {
        api: Api::of(server.client()),
        own: "own".into(),
        cluster_pod_cidrs: Vec::new(),
        service_ranges: Arc::default(),
        grace,
        nodes: Arc::default(),
        confirmed: Arc::default(),
        contested: Arc::default(),
        board: Arc::new(Board::new(&[], Vec::new(), Bus::default(), Metrics::default())),
        agenda: Agenda::default(),
        missing: BTreeSet::new(),
        seen: Arc::default(),
        is_complete: false,
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bench {
    /// Starts the source with the first list: the Nodes that the server has.
    fn start(server: &Arc<Server>, recorded: &[u16], grace: Duration) -> Self {
        let (nodes, confirmed, contested) =
            (Arc::default(), Arc::<Store<Confirmed>>::default(), Arc::default());
        for n in recorded {
            let answer = Confirmed { uid: format!("uid-{n}"), asked: None, facts: claims(*n, true).facts() };
            confirmed.apply(&name(*n), String::new(), answer);
        }
        let confirmer = Confirmer {
            nodes: Arc::clone(&nodes),
            confirmed: Arc::clone(&confirmed),
            contested: Arc::clone(&contested),
            ..parts(server, grace)
        };
        let bench = Self {
            server: Arc::clone(server),
            nodes,
            confirmed,
            contested,
            task: tokio::spawn(confirmer.run()),
        };
        bench.list();
        bench
    }

    /// The store gets a list of what the server has.
    fn list(&self) {
        let numbers = self.server.nodes.lock().unwrap().keys().map(|name| number(name)).collect::<Vec<_>>();
        self.nodes
            .replace(numbers.into_iter().map(|n| (name(n), ("1".to_owned(), claims(n, true)))).collect());
    }

    fn contest(&self, n: u16) {
        self.contested.set([name(n).name].into());
    }

    /// How often one Node was asked for.
    fn gets(&self, n: u16) -> usize {
        let path = format!("/api/v1/nodes/{}", name(n).name);
        self.server.requests().iter().filter(|uri| uri.split('?').next() == Some(path.as_str())).count()
    }

    fn is_confirmed(&self, n: u16) -> bool {
        self.confirmed.get(&name(n)).is_some()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited 20 s for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn name(n: u16) -> Key {
    Key::name(format!("n{n:03}"))
}

fn number(name: &str) -> u16 {
    name[1..].parse().unwrap()
}

/// In numbers beyond a byte, keys and addresses repeat: nothing here minds.
fn byte(n: u16) -> u8 {
    n.to_be_bytes()[1]
}

fn claims(n: u16, member: bool) -> NodeClaims {
    let last = byte(n);
    let texts = [
        (PUBLIC_KEY, PrivateKey::from_bytes([last; 32]).public_key().to_string()),
        (KEY_EPOCH, "1".into()),
        (POD_CIDRS, format!("10.244.{last}.0/24")),
        (NODE_ADDRESSES, format!("192.0.2.{last}")),
    ];
    let texts = texts.map(|(name, text)| (name.to_owned(), text)).into();
    let published = if member { annotation::parse(&texts) } else { Ok(None) };
    NodeClaims { name: name(n).name, uid: format!("uid-{n}"), published }
}

fn object(n: u16) -> Value {
    json!({
        "metadata": {"name": name(n).name, "uid": format!("uid-{n}")},
        "spec": {"podCIDRs": [format!("10.244.{}.0/24", byte(n))]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{}", byte(n))}]},
    })
}

fn server(numbers: impl IntoIterator<Item = u16>) -> Arc<Server> {
    let nodes = numbers.into_iter().map(|n| (name(n).name, object(n))).collect();
    Arc::new(Server { nodes: Mutex::new(nodes), ..Server::default() })
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_missing_node_is_kept_for_the_time_of_grace_and_then_one_get_decides() {
    let bench = Bench::start(&server([1, 2]), &[], Duration::from_millis(100));
    until("both to be confirmed", || bench.confirmed.is_synced() && bench.is_confirmed(2)).await;
    bench.server.nodes.lock().unwrap().remove("n002");
    let (before, since) = (bench.gets(2), Instant::now());
    bench.list();
    assert!(bench.is_confirmed(2), "a list alone frees nothing");
    until("the missing Node to be asked for", || bench.gets(2) > before).await;
    assert!(since.elapsed() >= Duration::from_millis(100), "{:?}", since.elapsed());
    until("the missing Node to be free", || !bench.is_confirmed(2) && !bench.nodes.is_missing(&name(2)))
        .await;
    assert_eq!((bench.gets(2), bench.is_confirmed(1)), (before + 1, true));
}

#[tokio::test]
async fn a_reported_deletion_acts_at_once() {
    let bench = Bench::start(&server([1, 2]), &[], LONG);
    until("both to be confirmed", || bench.confirmed.is_synced() && bench.is_confirmed(2)).await;
    let before = bench.gets(2);
    bench.nodes.delete(&name(2));
    until("the deleted Node to be free", || !bench.is_confirmed(2)).await;
    assert_eq!(bench.gets(2), before);
}

#[tokio::test]
async fn what_the_records_have_and_the_first_list_lacks_is_kept_and_asked_for_when_it_is_contested() {
    let bench = Bench::start(&server([1]), &[1, 2, 3], LONG);
    until("the first list", || bench.confirmed.is_synced()).await;
    assert!(bench.is_confirmed(2) && bench.is_confirmed(3));
    bench.contest(2);
    until("the contested Node to be free", || !bench.is_confirmed(2)).await;
    assert_eq!((bench.gets(2), bench.gets(3), bench.is_confirmed(3)), (1, 0, true));
}

#[tokio::test]
async fn a_node_that_exists_is_kept_whatever_a_list_lacks() {
    let bench = Bench::start(&server([1, 2]), &[], LONG);
    until("both to be confirmed", || bench.confirmed.is_synced() && bench.is_confirmed(2)).await;
    let before = bench.gets(2);
    bench.nodes.replace([(name(1), ("1".to_owned(), claims(1, true)))].into());
    bench.contest(2);
    until("the missing Node to be asked for", || bench.gets(2) > before).await;
    // As long as the API server fails, nothing is free either.
    *bench.server.failing.lock().unwrap() = ("n002", 3);
    bench.contested.set(BTreeSet::new());
    until("the source to see it", || bench.contested.get().is_empty()).await;
    bench.contest(2);
    assert!(bench.is_confirmed(2) && bench.nodes.is_missing(&name(2)));
}

/// Its object may have changed since it was confirmed, and no event says so: a heartbeat looks the same.
#[tokio::test]
async fn a_contested_node_is_asked_for_again_with_growing_pauses() {
    let bench = Bench::start(&server([1, 2]), &[1, 2], LONG);
    until("the first list", || bench.confirmed.is_synced()).await;
    assert_eq!(bench.gets(1), 0, "the record had confirmed it");
    let moved = json!([{"type": "InternalIP", "address": "192.0.2.77"}]);
    bench.server.nodes.lock().unwrap().get_mut("n001").unwrap()["status"]["addresses"] = moved;
    bench.contest(1);
    let shown = || bench.confirmed.get(&name(1)).unwrap().value.facts.node_addresses.clone();
    until("what the object shows now", || shown() == ["192.0.2.77".parse::<std::net::IpAddr>().unwrap()])
        .await;
    assert_eq!((bench.gets(1), bench.gets(2)), (1, 0));
    // Heartbeats without end: the pauses grow from a second.
    let begun = Instant::now();
    for version in 2..60 {
        bench.nodes.apply(&name(1), version.to_string(), claims(1, true));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let most = 1 + usize::try_from(begun.elapsed().as_secs() * 2).unwrap();
    assert!(bench.gets(1) <= 1 + most, "{} GETs in {:?}", bench.gets(1), begun.elapsed());
}

#[tokio::test]
async fn many_are_listed_in_pages_and_a_page_that_fails_costs_no_other() {
    let server = server(0..600);
    *server.failing.lock().unwrap() = ("continue=250", 1);
    let bench = Bench::start(&server, &[], LONG);
    until("the first page", || bench.is_confirmed(249)).await;
    assert!(!bench.is_confirmed(250) && !bench.confirmed.is_synced());
    until("all to be confirmed", || bench.confirmed.is_synced()).await;
    assert_eq!(bench.confirmed.len(), 600);
    let requests = server.requests();
    assert!(requests.iter().all(|uri| uri.contains("limit=250")), "{requests:?}");
    assert_eq!(requests.len(), 2 + 3, "two pages, of which one failed, and then all: {requests:?}");
    // A change of many is one more list; one that fails at its end leaves nothing to ask for again but the rest.
    *server.failing.lock().unwrap() = ("continue=500", 1);
    for n in (0..20).chain(590..600) {
        bench.nodes.apply(&name(n), "2".into(), NodeClaims { uid: "another".into(), ..claims(n, true) });
        server.nodes.lock().unwrap().get_mut(&name(n).name).unwrap()["metadata"]["uid"] = json!("another");
    }
    let is_new = |n: u16| bench.confirmed.get(&name(n)).is_some_and(|object| object.value.uid == "another");
    until("what has changed", || (0..20).chain(590..600).all(is_new)).await;
    let after: Vec<String> = server.requests().split_off(requests.len());
    let (lists, gets): (Vec<&String>, Vec<&String>) = after.iter().partition(|uri| uri.contains("limit="));
    assert!(lists.len() <= 6 && gets.len() <= 2 * MOST_GETS, "{after:?}");
}

#[tokio::test]
async fn an_api_server_that_fails_is_asked_with_growing_pauses_whatever_changes_meanwhile() {
    let server = server(0..100);
    *server.failing.lock().unwrap() = ("", usize::MAX);
    let bench = Bench::start(&server, &[], LONG);
    let begun = Instant::now();
    until("several attempts", || server.requests().len() >= 4).await;
    // Half of 0.2, 0.4 and 0.8 s at least lies between them.
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    let (before, begun) = (server.requests().len(), Instant::now());
    for version in 2..100 {
        let member = version % 2 == 0;
        bench.nodes.apply(&name(1), version.to_string(), claims(1, member));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let asked = server.requests().len() - before;
    assert!(asked <= 2, "{asked} attempts in {:?}", begun.elapsed());
    assert!(!bench.confirmed.is_synced());
    *server.failing.lock().unwrap() = ("", 0);
    until("all to be confirmed", || bench.confirmed.is_synced()).await;
}

/// Windows, virtual kubelets: their objects change all the time, and there is nothing to confirm.
#[tokio::test]
async fn nodes_that_are_no_members_are_not_asked_for_at_each_heartbeat() {
    let server = server(0..10);
    let bench = Bench::start(&server, &[], LONG);
    until("the first list", || bench.confirmed.is_synced()).await;
    let beat = |version: u64| {
        for n in 0..10 {
            bench.nodes.apply(&name(n), version.to_string(), claims(n, false));
        }
    };
    beat(2);
    let begun = Instant::now();
    for version in 3..300 {
        beat(version);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The pauses double from half a second on, at least.
    let (mut most, mut next) = (2, FIRST_PAUSE / 2);
    while next < begun.elapsed() {
        (most, next) = (most + 1, next * 2);
    }
    for n in 0..10 {
        assert!(bench.gets(n) <= most, "{} GETs of a Node in {:?}", bench.gets(n), begun.elapsed());
    }
}

/// Not all agents of a cluster ask in the moment in which a Node joins.
#[tokio::test]
async fn questions_about_a_new_node_are_spread_over_time() {
    let bench = Bench::start(&server([1]), &[], LONG);
    until("the first list", || bench.confirmed.is_synced()).await;
    let confirmer = || {
        let nodes: Arc<Store<NodeClaims>> = Arc::default();
        let list = (0..200).map(|n| (name(n), (String::new(), claims(n, true))));
        nodes.replace(list.collect());
        Confirmer { nodes, is_complete: true, ..parts(&bench.server, LONG) }
    };
    let confirmer = confirmer();
    let waits: BTreeSet<Duration> = (0..100).map(|_| confirmer.spread()).collect();
    let all = SPREAD * 200;
    assert!(waits.len() > 50 && waits.iter().all(|wait| *wait <= all), "{waits:?}");
    assert!(*waits.first().unwrap() < all / 4 && *waits.last().unwrap() > all * 3 / 4, "{waits:?}");
}
