//! What goes wrong in a control plane: it forgets, and it turns requests away.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::Kubernetes;
use crate::error::{Doing as _, Error};
use crate::process;

/// How long the API server is away when it is restarted.
const RESTART: Duration = Duration::from_millis(200);
const ETCD: &str = "http://127.0.0.1:2379/v3";
const STARVED: &str = "lab-starved";
/// A service account that takes the only seat: a level always lets one request in, even one that has room for none.
const GLUTTON: &str = "glutton";
/// What everybody may ask for.
const ANYBODY_MAY: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const LOOK: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(30);

impl Kubernetes {
    /// Makes etcd forget all that has been before now, and the API server too, by a restart: it keeps what happened in
    /// the last minutes in memory, whatever etcd has forgotten. A watch that was left before cannot be taken up.
    pub fn forget_the_past(&self) -> Result<(), Error> {
        let ask = |path: &str, body: &Value| {
            let (url, body) = (format!("{ETCD}/{path}"), body.to_string());
            let said = self.within(
                self.control_space(),
                "curl",
                &["--silent", "--show-error", "--fail", "--data", &body, &url],
            )?;
            serde_json::from_str::<Value>(&said).doing(format!("read what etcd says of {path}"))
        };
        let status = ask("maintenance/status", &json!({}))?;
        ask("kv/compaction", &json!({"revision": status["header"]["revision"], "physical": true}))?;
        self.without_api_server(|| {
            std::thread::sleep(RESTART);
            Ok(())
        })
    }

    /// Has the API server turn away all that agents ask for (429), until what is given is dropped.
    pub fn starve_agents(&self) -> Result<Starved<'_>, Error> {
        let mut starved = Starved { cluster: self, glutton: None };
        let [level, schema] = starvation();
        self.client.create(&path("prioritylevelconfigurations"), &level)?;
        self.client.create(&path("flowschemas"), &schema)?;
        self.kubectl(&["create", "serviceaccount", GLUTTON])?;
        let token = self.kubectl(&["create", "token", GLUTTON])?;
        let seated = process::wait_every(LOOK, "a seat for the glutton", PATIENCE, || {
            starved.glutton = self.eat(token.trim()).ok();
            starved.is_full()
        });
        seated.map_err(|why| Error::new("starve the agents", why))?;
        Ok(starved)
    }

    /// Begins a request that does not end, because its body does not.
    fn eat(&self, token: &str) -> std::io::Result<Child> {
        let url = self.api_url();
        let mut command = Command::new("curl");
        command.args(["--silent", "--insecure", "--http1.1", "--request", "POST", "--upload-file", "-"]);
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
        command.args(["--header", "Content-Type: application/json"]).arg(format!("{url}{ANYBODY_MAY}"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }
}

/// The agents while they are turned away.
pub struct Starved<'a> {
    cluster: &'a Kubernetes,
    /// Who has the one seat.
    glutton: Option<Child>,
}

impl Starved<'_> {
    /// Whether the one seat is taken: whoever is turned away has been told so by now.
    pub fn is_full(&mut self) -> bool {
        std::thread::sleep(LOOK);
        self.glutton.as_mut().is_some_and(|glutton| matches!(glutton.try_wait(), Ok(None)))
    }
}

impl Drop for Starved<'_> {
    fn drop(&mut self) {
        if let Some(mut glutton) = self.glutton.take() {
            let _ = glutton.kill();
            let _ = glutton.wait();
        }
        let delete = |path: String| self.cluster.client.delete(&path);
        let deleted = delete(format!("{}/{STARVED}", path("flowschemas")))
            .and_then(|()| delete(format!("{}/{STARVED}", path("prioritylevelconfigurations"))))
            .and_then(|()| delete(format!("/api/v1/namespaces/default/serviceaccounts/{GLUTTON}")));
        if let Err(error) = deleted {
            tracing::error!(%error, "agents are still turned away");
        }
    }
}

fn path(collection: &str) -> String {
    format!("/apis/flowcontrol.apiserver.k8s.io/v1/{collection}")
}

/// A level with room for one request, whatever it asks for, and what sends the agents and the glutton there, before all
/// other schemas but the exempt one.
fn starvation() -> [Value; 2] {
    let version = "flowcontrol.apiserver.k8s.io/v1";
    let level = json!({
        "apiVersion": version, "kind": "PriorityLevelConfiguration", "metadata": {"name": STARVED},
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Reject"},
        }},
    });
    let account = |name: &str, namespace: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": namespace}});
    let anything = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]});
    let schema = json!({
        "apiVersion": version, "kind": "FlowSchema", "metadata": {"name": STARVED},
        "spec": {
            "priorityLevelConfiguration": {"name": STARVED}, "matchingPrecedence": 2,
            "rules": [{
                "subjects": [account("selvedge-agent", "selvedge-system"), account(GLUTTON, "default")],
                "resourceRules": [anything],
            }],
        },
    });
    [level, schema]
}
