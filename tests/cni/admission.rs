//! The agent's say before a pod starts.

use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::nft::{self, Family};
use selvedge::local::{Method, Problem, Request, Response, Router, listen, serve};
use selvedge::pod::admission::{AdmitRequest, Admitted, ROUTE};
use selvedge::pod::hostport::TABLE;
use serde_json::json;
use tokio::sync::oneshot;

use crate::node::{Node, Pod, Said, block_on, in_both, node};
use crate::verbs::nothing_left;

/// A server in the agent's place; it ends with this.
struct Agent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// Answers `POST path` on `socket` with `answer`.
    fn start<F, A>(socket: &Path, path: &'static str, answer: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let listener = listen(socket).unwrap();
        let mut router = Router::new();
        router.route(Method::POST, path, answer);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            block_on(async {
                tokio::select! {
                    served = serve(listener, router) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// ADD of a pod with a host port, which the runtime names.
fn add(node: &Node, pod: &Pod) -> Said {
    let mut config = node.config.clone();
    config["runtimeConfig"] = json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]});
    let variables = pod.variables("ADD");
    let mut variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    variables.push(("CNI_ARGS", "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=1-2"));
    node.run(&variables, &config.to_string())
}

/// ADD fails with "try again later", and leaves nothing behind on the node or in the pod.
fn held_back(node: &Node, pod: &Pod, reason: &str) {
    let said = add(node, pod);
    assert_eq!((said.success, &said.output["code"]), (false, &json!(11)), "{said:?}");
    assert!(said.output["details"].as_str().unwrap().contains(reason), "{said:?}");
    nothing_left(node);
    assert_eq!(nft::read(Family::Inet, TABLE).unwrap(), None, "the host port is closed again");
    let inside = block_on(async { Netlink::in_ns(&pod.netns).unwrap().link_named("eth0").await.unwrap() });
    assert_eq!(inside, None);
}

in_both!(a_pod_that_the_agent_refuses_is_not_added, |node: Node| {
    let socket = node.paths.agent_socket();
    let pod = Pod::unconnected("a");
    let (asked, questions) = mpsc::channel();
    let refuse = move |request: Request| {
        asked.send(request.json::<AdmitRequest>().unwrap()).unwrap();
        async { Err(Problem::conflict("its policies are not in force")) }
    };
    let refusing = Agent::start(&socket, ROUTE, refuse);
    held_back(&node, &pod, "its policies are not in force");
    drop(refusing);

    let question = questions.try_recv().unwrap();
    let _agreeing = Agent::start(&socket, ROUTE, async |_| Response::json(&Admitted {}));
    let said = add(&node, &pod);
    assert!(said.success, "{said:?}");
    assert_eq!((question.container_id.as_str(), question.interface.as_str()), ("a", "eth0"));
    assert_eq!((question.namespace.as_str(), question.pod.as_str()), ("ns", "web"));
    assert_eq!(question.uid.as_deref(), Some("1-2"));
    assert_eq!(question.addresses.len(), 2, "one of each family");
});

#[test]
fn an_agent_that_does_not_answer_is_waited_for_until_the_deadline() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let _hanging =
            Agent::start(&node.paths.agent_socket(), ROUTE, async |_| std::future::pending().await);
        let begun = Instant::now();
        held_back(&node, &Pod::unconnected("a"), "within 5s");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn an_agent_without_the_route_holds_nobody_back() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let _older = Agent::start(&node.paths.agent_socket(), "/v1/other", async |_| Response::json(&()));
        let said = add(&node, &Pod::unconnected("a"));
        assert!(said.success, "{said:?}");
    });
}

#[test]
fn a_socket_that_a_killed_agent_left_holds_nobody_back() {
    selvedge_lab::isolated!(|| {
        let node = node();
        drop(listen(&node.paths.agent_socket()).unwrap());
        assert!(node.paths.agent_socket().exists());
        let said = add(&node, &Pod::unconnected("a"));
        assert!(said.success, "{said:?}");
    });
}
