//! The agenda, and the source against an API server in memory.

use std::sync::Mutex;

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
    /// Requests that fail before the next one is served.
    failures: Mutex<usize>,
}

impl Server {
    fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = service_fn(move |request: http::Request<Body>| {
            let (code, body) = server.answer(request.uri());
            let body = Body::from(body.to_string().into_bytes());
            std::future::ready(Ok::<_, std::convert::Infallible>(
                http::Response::builder().status(code).body(body).unwrap(),
            ))
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
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return status(500);
        }
        let nodes = self.nodes.lock().unwrap();
        if let Some(name) = uri.path().strip_prefix("/api/v1/nodes/") {
            return nodes.get(name).map_or_else(|| status(404), |node| (200, node.clone()));
        }
        let parameter =
            |name: &str| uri.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let limit: usize = parameter("limit").map_or(usize::MAX, |text| text.parse().unwrap());
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

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bench {
    /// Starts the source with the first list: the Nodes that the server has.
    fn start(server: &Arc<Server>, recorded: &[u8], grace: Duration) -> Self {
        let (nodes, confirmed, contested) =
            (Arc::default(), Arc::<Store<Confirmed>>::default(), Arc::default());
        for n in recorded {
            let answer = Confirmed { uid: format!("uid-{n}"), asked: None, facts: claims(*n, true).facts() };
            confirmed.apply(&name(*n), String::new(), answer);
        }
        let confirmer = Confirmer {
            api: Api::of(server.client()),
            own: "own".into(),
            ranges: ClusterRanges::default(),
            grace,
            nodes: Arc::clone(&nodes),
            confirmed: Arc::clone(&confirmed),
            contested: Arc::clone(&contested),
            board: Arc::new(Board::new(&[], Vec::new(), Bus::default(), Metrics::default())),
            agenda: Agenda::default(),
            missing: BTreeSet::new(),
            seen: Arc::default(),
            is_complete: false,
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

    fn contest(&self, n: u8) {
        self.contested.set([name(n).name].into());
    }

    /// How often one Node was asked for.
    fn gets(&self, n: u8) -> usize {
        let path = format!("/api/v1/nodes/{}", name(n).name);
        self.server.requests().iter().filter(|uri| uri.split('?').next() == Some(path.as_str())).count()
    }

    fn is_confirmed(&self, n: u8) -> bool {
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

fn name(n: u8) -> Key {
    Key::name(format!("n{n:03}"))
}

fn number(name: &str) -> u8 {
    name[1..].parse().unwrap()
}

fn claims(n: u8, member: bool) -> NodeClaims {
    let texts = [
        (PUBLIC_KEY, PrivateKey::from_bytes([n; 32]).public_key().to_string()),
        (KEY_EPOCH, "1".into()),
        (POD_CIDRS, format!("10.244.{n}.0/24")),
        (NODE_ADDRESSES, format!("192.0.2.{n}")),
    ];
    let texts = texts.map(|(name, text)| (name.to_owned(), text)).into();
    let published = if member { annotation::parse(&texts) } else { Ok(None) };
    NodeClaims { name: name(n).name, uid: format!("uid-{n}"), published }
}

fn object(n: u8) -> Value {
    json!({
        "metadata": {"name": name(n).name, "uid": format!("uid-{n}")},
        "spec": {"podCIDRs": [format!("10.244.{n}.0/24")]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{n}")}]},
    })
}

fn server(numbers: impl IntoIterator<Item = u8>) -> Arc<Server> {
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
    *bench.server.failures.lock().unwrap() = 3;
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
