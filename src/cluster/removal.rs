//! Selvedge off a whole cluster. What is left to do follows from what is there, so that it can be broken off at any
//! point and run again.
//!
//! The order: agents and tunnels end first, since they would put back what is removed. Then every node is cleaned. Only
//! then does the admission policy go, because as long as an agent may run, nobody else may write its annotations; and
//! only after the policy the annotations, because it lets no operator take them off. The namespace is last: the
//! DaemonSet that cleaned the nodes stays in it until then, and tells who runs this again that they are clean.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::rollout::{share, stuck};
use super::{Error, LOOK, MANAGER, absent, code};
use crate::manifest::{AGENT, Id, NAMESPACE, PREFIX, TUNNEL, cleanup, outside_of_the_namespace};

const PODS: &str = "app.kubernetes.io/name=selvedge,app.kubernetes.io/component in (agent,tunnel)";
const CLEANERS: &str = "app.kubernetes.io/name=selvedge,app.kubernetes.io/component=uninstall";

/// How it is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether keys, records and the plugin's program go too.
    pub purge: bool,
    /// The image that cleans the nodes; the agent's by default.
    pub image: Option<String>,
    /// How long each step may take.
    pub timeout: Duration,
}

/// What of Selvedge is there.
#[derive(Debug, Clone, Default)]
pub struct There {
    agent: Option<DaemonSet>,
    tunnel: bool,
    cleanup: Option<DaemonSet>,
    pods: usize,
    nodes: usize,
    annotated: BTreeMap<String, Vec<String>>,
    objects: Vec<Id>,
    namespace: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// End the agents and the tunnels.
    Stop,
    /// Clean this many nodes.
    Clean(usize),
    /// Remove an object.
    Object(Id),
    /// Take annotations off a Node.
    Annotations {
        /// Which Node.
        node: String,
        /// Which annotations.
        names: Vec<String>,
    },
    /// Remove the namespace with all that is in it.
    Namespace,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop => write!(f, "DaemonSets {AGENT} and {TUNNEL}, and their pods"),
            Self::Clean(nodes) => {
                write!(f, "devices, routes, nftables and CNI configuration of {nodes} nodes")
            }
            Self::Object(id) => write!(f, "{id}"),
            Self::Annotations { node, names } => {
                write!(f, "{} annotations {PREFIX}* of Node {node}", names.len())
            }
            Self::Namespace => write!(f, "Namespace {NAMESPACE}, with all that is in it"),
        }
    }
}

impl There {
    /// Looks.
    ///
    /// # Errors
    /// When the API server does not tell.
    pub async fn look(client: &Client) -> Result<Self, Error> {
        let failed = |doing: &'static str| move |error| Error::call(doing, error);
        let all = ListParams::default();
        let sets = Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE).list(&all).await;
        let mut sets = sets.map_err(failed("list our DaemonSets"))?.items;
        let mut take = |name: &str| {
            let at = sets.iter().position(|set| set.name_any() == name)?;
            Some(sets.remove(at))
        };
        let (agent, tunnel, cleanup) = (take(AGENT), take(TUNNEL).is_some(), take(cleanup::NAME));
        let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&all.clone().labels(PODS)).await;
        let nodes =
            Api::<Node>::all(client.clone()).list(&all).await.map_err(failed("list the Nodes"))?.items;
        let namespace = absent(Api::<Namespace>::all(client.clone()).get(NAMESPACE).await);
        let mut objects = Vec::new();
        for id in outside_of_the_namespace() {
            let found = absent(id.api(client.clone()).get_metadata(&id.name).await);
            if found.map_err(|error| Error::call(format!("get {id}"), error))?.is_some() {
                objects.push(id);
            }
        }
        Ok(Self {
            agent,
            tunnel,
            cleanup,
            pods: pods.map_err(failed("list our pods"))?.items.len(),
            nodes: nodes.len(),
            annotated: nodes.iter().filter_map(annotated).collect(),
            objects,
            namespace: namespace.map_err(failed("get our Namespace"))?.is_some(),
        })
    }

    /// What is left to do, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.agent.is_some() || self.tunnel || self.pods > 0 {
            steps.push(Step::Stop);
        }
        let cleaned = self.cleanup.as_ref().is_some_and(|set| !is_held(set) && share(set).done);
        if (self.agent.is_some() || self.cleanup.is_some()) && !cleaned {
            steps.push(Step::Clean(self.nodes));
        }
        let is_policy = |id: &&Id| id.kind.starts_with("ValidatingAdmissionPolicy");
        steps.extend(self.objects.iter().filter(is_policy).cloned().map(Step::Object));
        let nodes = self.annotated.iter();
        steps.extend(
            nodes.map(|(node, names)| Step::Annotations { node: node.clone(), names: names.clone() }),
        );
        steps.extend(self.objects.iter().filter(|id| !is_policy(id)).cloned().map(Step::Object));
        steps.extend(self.namespace.then_some(Step::Namespace));
        steps
    }

    /// Whether nodes are not cleaned, because nothing is left that says how.
    #[must_use]
    pub fn cannot_clean(&self) -> bool {
        self.namespace && self.agent.is_none() && self.cleanup.is_none()
    }
}

/// Does it, and tells `tell` of every step and of what it waits for.
pub struct Removal<'a> {
    /// The way to the cluster.
    pub client: Client,
    /// How.
    pub options: Options,
    /// Told of what is waited for.
    pub tell: &'a mut dyn FnMut(&str),
}

impl Removal<'_> {
    /// Does one step of those of `there`.
    ///
    /// # Errors
    /// When the API server refuses something, or it takes too long: then with what is in the way. Run again, it goes on.
    pub async fn run(&mut self, there: &There, step: &Step) -> Result<(), Error> {
        match step {
            Step::Stop => self.stop(there).await,
            Step::Clean(_) => self.clean().await,
            Step::Object(id) => self.delete(id).await,
            Step::Annotations { node, names } => self.annotations(node, names).await,
            Step::Namespace => self.namespace().await,
        }
    }

    /// The cleanup is made first, held back: it is made of the agent's DaemonSet, which is gone afterwards.
    async fn stop(&mut self, there: &There) -> Result<(), Error> {
        if let Some(agent) = there.agent.as_ref().and_then(|agent| serde_json::to_value(agent).ok())
            && there.cleanup.as_ref().is_none_or(is_held)
            && let Some(object) =
                cleanup::daemon_set(&agent, self.options.purge, self.options.image.as_deref())
        {
            let api = Api::<DaemonSet>::namespaced(self.client.clone(), NAMESPACE);
            let made = api
                .patch(cleanup::NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object.0))
                .await;
            made.map_err(|error| Error::call(format!("apply {}", object.id()), error))?;
        }
        for name in [AGENT, TUNNEL] {
            self.delete(&daemon_set(name)).await?;
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let list = ListParams::default().labels(PODS);
        self.wait("the pods of agents and tunnels to be gone", async || {
            let left = pods.list(&list).await?.items;
            Ok((!left.is_empty()).then(|| waits_for(&left)))
        })
        .await
    }

    async fn clean(&mut self) -> Result<(), Error> {
        let sets = Api::<DaemonSet>::namespaced(self.client.clone(), NAMESPACE);
        let pods = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let patched =
            sets.patch(cleanup::NAME, &PatchParams::default(), &Patch::Merge(cleanup::let_go())).await;
        patched.map_err(|error| Error::call(format!("start DaemonSet {}", cleanup::NAME), error))?;
        let list = ListParams::default().labels(CLEANERS);
        self.wait("every node to be cleaned", async || {
            let share = share(&sets.get(cleanup::NAME).await?);
            if share.done {
                return Ok(None);
            }
            let stuck: Vec<String> = pods.list(&list).await?.items.iter().filter_map(stuck).collect();
            let counted = format!("{} of {} nodes", share.ready, share.of);
            Ok(Some(if stuck.is_empty() { counted } else { format!("{counted}; {}", stuck.join("; ")) }))
        })
        .await
    }

    async fn annotations(&mut self, node: &str, names: &[String]) -> Result<(), Error> {
        let nodes = Api::<Node>::all(self.client.clone());
        let none: BTreeMap<&String, Value> = names.iter().map(|name| (name, Value::Null)).collect();
        let patch = Patch::Merge(json!({"metadata": {"annotations": none}}));
        self.wait(&format!("the annotations of Node {node} to be gone"), async || {
            match absent(nodes.patch_metadata(node, &PatchParams::default(), &patch).await) {
                Ok(_) => Ok(None),
                // API servers enforce a policy for a moment after it is gone.
                Err(error) if code(&error) == Some(403) => Ok(Some(super::said(&error))),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn namespace(&mut self) -> Result<(), Error> {
        let id = Id {
            api_version: "v1".into(),
            kind: "Namespace".into(),
            namespace: None,
            name: NAMESPACE.into(),
        };
        self.delete(&id).await?;
        let api = Api::<Namespace>::all(self.client.clone());
        self.wait("the namespace to be gone", async || {
            let Some(namespace) = absent(api.get(NAMESPACE).await)? else { return Ok(None) };
            let conditions = namespace.status.and_then(|status| status.conditions).unwrap_or_default();
            let why = conditions.into_iter().filter(|condition| condition.status == "True");
            let why: Vec<String> = why.filter_map(|condition| condition.message).collect();
            Ok(Some(if why.is_empty() { "it is ending".into() } else { why.join("; ") }))
        })
        .await
    }

    async fn delete(&self, id: &Id) -> Result<(), Error> {
        let deleted = id.api(self.client.clone()).delete(&id.name, &DeleteParams::background()).await;
        absent(deleted).map(drop).map_err(|error| Error::call(format!("delete {id}"), error))
    }

    /// Asks again and again what is still in the way, until nothing is.
    async fn wait(
        &mut self,
        what: &str,
        in_the_way: impl AsyncFn() -> Result<Option<String>, kube::Error>,
    ) -> Result<(), Error> {
        let end = Instant::now() + self.options.timeout;
        loop {
            let why = match in_the_way().await {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => why,
                Err(error) if code(&error).is_some_and(|code| (400..500).contains(&code) && code != 429) => {
                    return Err(Error::call(format!("wait for {what}"), error));
                }
                Err(error) => super::said(&error),
            };
            if Instant::now() >= end {
                let seconds = self.options.timeout.as_secs();
                return Err(Error::Late(format!(
                    "waited {seconds} s for {what}: {why}\nRun it again to go on. A node that never comes back no longer \
                     counts once its Node object is deleted"
                )));
            }
            (self.tell)(&format!("waiting for {what}: {why}"));
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn daemon_set(name: &str) -> Id {
    Id {
        api_version: "apps/v1".into(),
        kind: "DaemonSet".into(),
        namespace: Some(NAMESPACE.into()),
        name: name.into(),
    }
}

fn is_held(set: &DaemonSet) -> bool {
    let pod = set.spec.template.spec.as_ref();
    pod.and_then(|pod| pod.node_selector.as_ref()).is_some_and(|labels| labels.contains_key(cleanup::HELD))
}

fn annotated(node: &Node) -> Option<(String, Vec<String>)> {
    let ours = node.annotations().keys().filter(|name| name.starts_with(PREFIX));
    let names: Vec<String> = ours.cloned().collect();
    (!names.is_empty()).then(|| (node.name_any(), names))
}

fn waits_for(pods: &[Pod]) -> String {
    let place = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let names: Vec<String> = pods.iter().map(|pod| format!("{} on {}", pod.name_any(), place(pod))).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(value: &Value) -> DaemonSet {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn installed() -> There {
        There {
            agent: Some(DaemonSet::default()),
            tunnel: true,
            pods: 4,
            nodes: 2,
            annotated: BTreeMap::from([("n1".into(), vec!["selvedge.dev/public-key".into()])]),
            objects: outside_of_the_namespace(),
            namespace: true,
            cleanup: None,
        }
    }

    fn done(selector: &Value) -> Option<DaemonSet> {
        Some(set(&json!({
            "metadata": {"name": cleanup::NAME, "generation": 1},
            "spec": {"selector": {}, "template": {"spec": {"containers": [], "nodeSelector": selector}}},
            "status": {"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2,
                "numberAvailable": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2},
        })))
    }

    #[test]
    fn nodes_are_cleaned_before_the_policy_goes_and_that_before_the_annotations() {
        let steps = installed().steps();
        let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let policy = at(&|step| matches!(step, Step::Object(id) if id.kind == "ValidatingAdmissionPolicy"));
        let annotations = at(&|step| matches!(step, Step::Annotations { .. }));
        assert_eq!(steps[..2], [Step::Stop, Step::Clean(2)]);
        assert!(2 < policy && policy < annotations, "{steps:?}");
        assert_eq!(steps.last(), Some(&Step::Namespace));
        assert!(steps.iter().all(|step| step.to_string().len() <= 66), "{steps:?}");
    }

    #[test]
    fn it_goes_on_where_it_was_broken_off() {
        assert_eq!(There::default().steps(), []);
        let stopped = There { agent: None, tunnel: false, pods: 0, ..installed() };
        let held = There { cleanup: done(&json!({cleanup::HELD: "true"})), ..stopped.clone() };
        assert_eq!(held.steps()[0], Step::Clean(2), "held back, it has nothing to do, and has done nothing");
        let cleaned = There { cleanup: done(&json!({})), ..stopped.clone() };
        assert!(matches!(cleaned.steps()[0], Step::Object(_)));
        assert!(stopped.cannot_clean() && !cleaned.cannot_clean() && !held.cannot_clean());
    }

    #[test]
    fn only_our_annotations_count() {
        let node = |annotations: Value| {
            annotated(
                &serde_json::from_value(json!({"metadata": {"name": "a", "annotations": annotations}}))
                    .unwrap(),
            )
        };
        assert_eq!(node(json!({"example.com/x": "", "selvedge.dev.example.com/x": ""})), None);
        let ours = node(json!({"selvedge.dev/a": "", "x": ""}));
        assert_eq!(ours, Some(("a".into(), vec!["selvedge.dev/a".into()])));
    }
}
