//! The server as kube's client and runtime see it, over TLS.

mod counters;
mod faults;
mod forms;
mod watches;
mod writes;

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::resource::{NODES, PODS};
use super::{Options, Server, User};

struct Lab {
    server: Server,
    url: String,
    client: Client,
}

impl Lab {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = Server::start(vec![listener], options).unwrap();
        let client = client(&server.kubeconfig("admin", &url)).await;
        Self { server, url, client }
    }

    /// A client of the agent on a node.
    async fn agent(&self, node: &str) -> Client {
        let user = User::agent(node);
        self.server.add_user(user.clone());
        client(&self.server.kubeconfig(&user.name, &self.url)).await
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    fn add_node(&self, name: &str) {
        self.server.store().create(&NODES, json!({"metadata": {"name": name}})).unwrap();
    }

    fn add_pod(&self, name: &str, node: &str) {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": []}});
        self.server.store().create(&PODS, pod).unwrap();
    }

    fn annotate(&self, node: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {"key": value}}});
        self.server.store().patch(&NODES, "", node, &patch).unwrap();
    }

    async fn raw(&self, target: &str, accept: &str) -> Value {
        let request = http::Request::get(target).header("accept", accept).body(Vec::new()).unwrap();
        serde_json::from_str(&self.client.request_text(request).await.unwrap()).unwrap()
    }
}

async fn client(kubeconfig: &str) -> Client {
    // Another test may have installed it before.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
}

/// The status code of a refusal.
fn code<T: Debug>(result: Result<T, kube::Error>) -> u16 {
    match result.unwrap_err() {
        kube::Error::Api(status) => status.code,
        other => panic!("no answer of the API: {other}"),
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("waited {limit:?} for {what}"))
}

async fn next<T>(what: &str, stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    within(what, stream.next()).await.unwrap_or_else(|| panic!("the stream ended before {what}"))
}
