//! Admission: the agent can hold a pod back until what applies to it is in force.
//!
//! The last step of ADD posts an [`AdmitRequest`] to [`ROUTE`] on the agent's socket and waits for [`Admitted`]. Without
//! an agent, or with one that does not know the route, every pod is admitted: there is no policy to wait for. An agent that
//! refuses, or that does not answer in time, fails the ADD, and the runtime tries again.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Code, Error};
use super::lease::Lease;
use crate::local::{Client, ClientError, StatusCode};

/// Where the agent takes an [`AdmitRequest`], by `POST`.
pub const ROUTE: &str = "/v1/pods/admit";

/// How long the agent may take to answer. The whole ADD has 60 s here and 4 minutes in kubelet (twice its
/// `runtimeRequestTimeout`), so there is time left to undo it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A pod interface that is wired and waits to be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmitRequest {
    /// `CNI_CONTAINERID`: the ID of the pod's sandbox.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface in the pod.
    pub interface: String,
    /// Namespace of the Pod object; empty when the runtime did not name the pod.
    pub namespace: String,
    /// Name of the Pod object; empty when the runtime did not name the pod.
    pub pod: String,
    /// UID of the Pod object, if the runtime named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The addresses leased to the interface: one of each family that the node has a pod CIDR of.
    pub addresses: Vec<IpAddr>,
}

/// The answer to an [`AdmitRequest`]: the pod may start.
///
/// Any error status but 404 refuses. A 404 means an agent without this route, and admits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {}

impl AdmitRequest {
    /// The request for the interface that holds `lease`.
    #[must_use]
    pub fn new(lease: &Lease) -> Self {
        Self {
            container_id: lease.attachment.container.clone(),
            interface: lease.attachment.interface.clone(),
            namespace: lease.pod.namespace.clone(),
            pod: lease.pod.name.clone(),
            uid: (!lease.pod.uid.is_empty()).then(|| lease.pod.uid.clone()),
            addresses: lease.addresses.iter().collect(),
        }
    }
}

/// Asks `agent` to admit the interface that holds `lease`.
pub(super) async fn admit(agent: &Client, lease: &Lease) -> Result<(), Error> {
    let answer: Result<Admitted, ClientError> = agent.post(ROUTE, &AdmitRequest::new(lease)).await;
    match answer {
        Ok(Admitted {}) => Ok(()),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(Error::new(
            Code::TryAgain,
            "the agent has not admitted the pod",
            format!("{}: {error}", lease.attachment),
        )),
    }
}

/// Whether nobody is there who could admit. An agent whose queue of connections is full (`WouldBlock`, unix(7)) is there.
fn is_absent(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => source.kind() != io::ErrorKind::WouldBlock,
        ClientError::Refused { status, .. } => *status == StatusCode::NOT_FOUND,
        ClientError::Timeout { .. } | ClientError::Broken { .. } | ClientError::Malformed { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::local::{Method, Problem, Request, Response, Router, listen, serve};
    use crate::pod::attachment::{Attachment, PodName};
    use crate::pod::node::Datapath;
    use crate::pod::pool::Addresses;

    fn lease() -> Lease {
        let name = |text: &str| text.to_owned();
        Lease {
            network: name("pods"),
            attachment: Attachment::new("abc", "eth0").unwrap(),
            netns: "/run/netns/abc".into(),
            netns_id: None,
            pod: PodName { namespace: name("ns"), name: name("web"), uid: String::new() },
            addresses: Addresses::parse("10.1.0.2,fd00::2").unwrap(),
            mtu: 1420,
            datapath: Datapath::Bridge,
            host_ports: vec![],
        }
    }

    fn hasty(socket: &Path) -> Client {
        Client::new(socket).with_timeout(Duration::from_millis(100))
    }

    /// What becomes of an ADD where `agent` answers on `path`.
    async fn asked<F, A>(path: &'static str, agent: F) -> Result<(), Error>
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let mut router = Router::new();
        router.route(Method::POST, path, agent);
        let server = tokio::spawn(serve(listen(&socket).unwrap(), router));
        let answer = admit(&hasty(&socket), &lease()).await;
        server.abort();
        answer
    }

    #[tokio::test]
    async fn an_agent_that_agrees_admits() {
        let agree = async |request: Request| {
            let AdmitRequest { addresses, .. } = request.json()?;
            assert_eq!(addresses.len(), 2);
            Response::json(&Admitted {})
        };
        asked(ROUTE, agree).await.unwrap();
    }

    #[tokio::test]
    async fn an_agent_that_refuses_or_hangs_holds_back() {
        let refusals = [
            asked(ROUTE, async |_| Err(Problem::conflict("no policy yet"))).await,
            asked(ROUTE, async |_| Err(Problem::internal("no policy yet"))).await,
        ];
        for refusal in refusals {
            let error = refusal.unwrap_err();
            assert_eq!(error.code, Code::TryAgain);
            assert_eq!(error.details, "eth0 of container abc: no policy yet");
        }
        let late = asked(ROUTE, async |_| std::future::pending().await).await.unwrap_err();
        assert_eq!(late.code, Code::TryAgain);
        assert!(late.details.contains("within 100ms"), "{late}");
    }

    #[tokio::test]
    async fn without_an_agent_that_knows_of_admission_all_are_admitted() {
        asked("/v1/status", async |_| Response::json(&())).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        admit(&hasty(&socket), &lease()).await.unwrap();
        drop(listen(&socket).unwrap());
        assert!(socket.exists(), "an agent that was killed leaves its socket");
        admit(&hasty(&socket), &lease()).await.unwrap();
    }

    #[tokio::test]
    async fn an_agent_that_accepts_nothing_more_is_not_absent() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let _listener = listen(&socket).unwrap();
        let mut waiting = vec![];
        while let Ok(stream) = tokio::net::UnixStream::connect(&socket).await {
            waiting.push(stream);
        }
        assert_eq!(admit(&hasty(&socket), &lease()).await.unwrap_err().code, Code::TryAgain);
    }

    #[test]
    fn the_request_as_it_is_sent() {
        let mut lease = lease();
        let sent = json!({
            "containerId": "abc", "interface": "eth0", "namespace": "ns", "pod": "web",
            "addresses": ["10.1.0.2", "fd00::2"],
        });
        assert_eq!(serde_json::to_value(AdmitRequest::new(&lease)).unwrap(), sent);
        "1-2".clone_into(&mut lease.pod.uid);
        assert_eq!(serde_json::to_value(AdmitRequest::new(&lease)).unwrap()["uid"], "1-2");
        assert_eq!(serde_json::from_value::<AdmitRequest>(sent).unwrap().uid, None);
    }
}
