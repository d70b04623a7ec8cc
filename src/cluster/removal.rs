//! Selvedge off a whole cluster. What is left to do follows from what is there, so that it can be broken off at any
//! point and run again.
//!
//! The order: agents and tunnels end first, since they would put back what is removed. Then every node is cleaned. Only
//! then does the admission policy go, because as long as an agent may run, nobody else may write its annotations; and
//! only after the policy the annotations, because it lets no operator take them off. The namespace is last: the
//! DaemonSet that cleaned the nodes stays in it until then, and tells who runs this again that they are clean.
//!
//! Whoever removes looks anew after each step: what has come back meanwhile is seen, and that nothing is left is true.

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
use super::{Error, LOOK, MANAGER, absent, code, is_transient, ours};
use crate::manifest::{AGENT, Id, NAMESPACE, PREFIX, TUNNEL, cleanup, outside_of_the_namespace};

const PODS: &str = "app.kubernetes.io/name=selvedge,app.kubernetes.io/component in (agent,tunnel)";
const CLEANERS: &str = "app.kubernetes.io/name=selvedge,app.kubernetes.io/component=uninstall";
const ALL_PODS: &str =
    "app.kubernetes.io/name=selvedge,app.kubernetes.io/component in (agent,tunnel,uninstall)";
/// How often the same thing is removed, before it is said that somebody puts it back.
const REPEATS: usize = 3;

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
    elsewhere: Option<String>,
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
        let sets = Api::<DaemonSet>::all(client.clone()).list(&all.clone().labels(ours::SELECTOR)).await;
        let mut sets = sets.map_err(failed("list our DaemonSets"))?.items;
        let elsewhere = ours::elsewhere(&sets);
        sets.retain(|set| set.namespace().as_deref() == Some(NAMESPACE));
        let mut take = |name: &str| {
            let at = sets.iter().position(|set| set.name_any() == name)?;
            Some(sets.remove(at))
        };
        let (agent, tunnel, cleanup) = (take(AGENT), take(TUNNEL).is_some(), take(cleanup::NAME));
        let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&all.clone().labels(PODS)).await;
        let nodes =
            Api::<Node>::all(client.clone()).list(&all).await.map_err(failed("list the Nodes"))?.items;
        let namespace = absent(Api::<Namespace>::all(client.clone()).get(NAMESPACE).await);
        Ok(Self {
            agent,
            tunnel,
            cleanup,
            pods: pods.map_err(failed("list our pods"))?.items.len(),
            nodes: nodes.len(),
            annotated: nodes.iter().filter_map(annotated).collect(),
            objects: objects(client).await?,
            namespace: namespace.map_err(failed("get our Namespace"))?.is_some(),
            elsewhere,
        })
    }

    /// What is left to do, in order; with `purge`, nodes are clean only once that is done too.
    #[must_use]
    pub fn steps(&self, purge: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.runs() {
            steps.push(Step::Stop);
        }
        if (self.agent.is_some() || self.cleanup.is_some()) && !self.is_clean(purge) {
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

    /// The steps to do before the next look: the first one, and those like it.
    #[must_use]
    pub fn next(&self, purge: bool) -> Vec<Step> {
        let mut steps = self.steps(purge);
        let Some(kind) = steps.first().map(std::mem::discriminant) else { return steps };
        let others = steps.iter().position(|step| std::mem::discriminant(step) != kind);
        steps.truncate(others.unwrap_or(steps.len()));
        steps
    }

    /// Whether nodes are not cleaned, because nothing is left that says how.
    #[must_use]
    pub fn cannot_clean(&self) -> bool {
        let lived = self.runs() || !self.annotated.is_empty() || !self.objects.is_empty();
        lived && self.agent.is_none() && self.cleanup.is_none()
    }

    /// Why nothing of it may be removed: it is in use by a Selvedge in another namespace.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&str> {
        self.elsewhere.as_deref()
    }

    fn runs(&self) -> bool {
        self.agent.is_some() || self.tunnel || self.pods > 0
    }

    /// What ran after a node was cleaned has put something back.
    fn is_clean(&self, purge: bool) -> bool {
        let Some(set) = self.cleanup.as_ref().filter(|_| !self.runs()) else { return false };
        !is_held(set) && share(set).done && (!purge || cleanup::purges(&value(set)))
    }
}

/// Those that are there, and ours.
async fn objects(client: &Client) -> Result<Vec<Id>, Error> {
    let mut objects = Vec::new();
    for id in outside_of_the_namespace() {
        let found = absent(id.api(client.clone()).get_metadata(&id.name).await);
        let found = found.map_err(|error| Error::call(format!("get {id}"), error))?;
        if found.is_some_and(|object| ours::is_ours(object.labels())) {
            objects.push(id);
        }
    }
    Ok(objects)
}

/// Removes all of it, step by step, until a look finds nothing more. Gives the steps that were done, and whether nodes are
/// left uncleaned; tells `tell` of what is done and what is waited for.
///
/// # Errors
/// As [`Removal::run`]; and when something is put back again and again.
pub async fn all(
    client: &Client,
    options: &Options,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<(Vec<Step>, bool), Error> {
    let (mut done, mut uncleaned) = (Vec::new(), false);
    loop {
        let there = There::look(client).await?;
        if let Some(why) = there.elsewhere() {
            return Err(Error::Conflict(why.to_owned()));
        }
        uncleaned |= there.cannot_clean();
        let steps = there.next(options.purge);
        if steps.is_empty() {
            return Ok((done, uncleaned));
        }
        for step in steps {
            if done.iter().filter(|before| **before == step).count() >= REPEATS {
                return Err(Error::Late(format!(
                    "removed {step} {REPEATS} times, and it is there again: stop what puts it back (GitOps, say), and \
                     run it again"
                )));
            }
            let mut waits = |text: &str| tell(News::Waits(text));
            Removal { client: client.clone(), options: options.clone(), tell: &mut waits }
                .run(&there, &step)
                .await?;
            tell(News::Done(&step));
            done.push(step);
        }
    }
}

/// What is told of a removal.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// A step is done.
    Done(&'a Step),
    /// It waits for something.
    Waits(&'a str),
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
            Step::Clean(_) => self.clean(there).await,
            Step::Object(id) => self.delete(id).await,
            Step::Annotations { node, names } => self.annotations(node, names).await,
            Step::Namespace => self.namespace().await,
        }
    }

    /// The cleanup is made first, held back: it is made of the agent's DaemonSet, which is gone afterwards. One that
    /// was let go already, before an agent came back, is held back again, and its pods go too.
    async fn stop(&mut self, there: &There) -> Result<(), Error> {
        if let Some(source) = there.agent.as_ref().or(there.cleanup.as_ref()) {
            self.cleanup(source, true).await?;
        }
        for name in [AGENT, TUNNEL] {
            self.delete(&daemon_set(name)).await?;
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let list = ListParams::default().labels(ALL_PODS);
        self.wait("the pods of agents and tunnels to be gone", async || {
            let left = pods.list(&list).await?.items;
            Ok((!left.is_empty()).then(|| waits_for(&left)))
        })
        .await
    }

    /// Made anew as this run is told, since it may have been told otherwise before.
    async fn clean(&mut self, there: &There) -> Result<(), Error> {
        let sets = Api::<DaemonSet>::namespaced(self.client.clone(), NAMESPACE);
        let pods = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        if let Some(cleanup) = &there.cleanup {
            self.cleanup(cleanup, false).await?;
        }
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

    async fn cleanup(&self, source: &DaemonSet, held: bool) -> Result<(), Error> {
        let Options { purge, image, .. } = &self.options;
        let Some(object) = cleanup::daemon_set(&value(source), *purge, image.as_deref(), held) else {
            return Err(Error::Late(format!(
                "DaemonSet {} is not as it was installed, and tells not how nodes are cleaned: delete it, and run \
                 `selvedge uninstall --node --yes` on each node",
                source.name_any()
            )));
        };
        let sets = Api::<DaemonSet>::namespaced(self.client.clone(), NAMESPACE);
        let params = PatchParams::apply(MANAGER).force();
        let made = sets.patch(cleanup::NAME, &params, &Patch::Apply(&object.0)).await;
        made.map(drop).map_err(|error| Error::call(format!("apply {}", object.id()), error))
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
                Err(error) if !is_transient(&error) => {
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

fn value(set: &DaemonSet) -> Value {
    serde_json::to_value(set).expect("a DaemonSet has only text keys")
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
            ..There::default()
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
        let steps = installed().steps(false);
        let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let policy = at(&|step| matches!(step, Step::Object(id) if id.kind == "ValidatingAdmissionPolicy"));
        let annotations = at(&|step| matches!(step, Step::Annotations { .. }));
        assert_eq!(steps[..2], [Step::Stop, Step::Clean(2)]);
        assert_eq!(installed().next(false), [Step::Stop]);
        assert!(2 < policy && policy < annotations, "{steps:?}");
        assert_eq!(steps.last(), Some(&Step::Namespace));
        assert!(steps.iter().all(|step| step.to_string().len() <= 66), "{steps:?}");
    }

    fn stopped() -> There {
        There { agent: None, tunnel: false, pods: 0, ..installed() }
    }

    #[test]
    fn it_goes_on_where_it_was_broken_off() {
        assert_eq!(There::default().steps(false), []);
        let held = There { cleanup: done(&json!({cleanup::HELD: "true"})), ..stopped() };
        assert_eq!(
            held.steps(false)[0],
            Step::Clean(2),
            "held back, it has nothing to do, and has done nothing"
        );
        let cleaned = There { cleanup: done(&json!({})), ..stopped() };
        assert!(matches!(cleaned.steps(false)[0], Step::Object(_)));
        assert_eq!(cleaned.next(false).len(), 2, "the policy and its binding");
        assert_eq!(cleaned.steps(true)[0], Step::Clean(2), "keys are still there");
    }

    #[test]
    fn what_came_back_is_stopped_and_its_nodes_are_cleaned_again() {
        let cleaned = There { cleanup: done(&json!({})), ..stopped() };
        let back = There { agent: Some(DaemonSet::default()), ..cleaned.clone() };
        assert_eq!(back.steps(false)[..2], [Step::Stop, Step::Clean(2)]);
        assert_eq!(There { pods: 1, ..cleaned }.steps(false)[..2], [Step::Stop, Step::Clean(2)]);
    }

    #[test]
    fn nodes_that_nothing_can_clean_are_known() {
        let cleaned = There { cleanup: done(&json!({})), ..stopped() };
        let empty = There { namespace: true, ..There::default() };
        assert!(!installed().cannot_clean() && !cleaned.cannot_clean() && !empty.cannot_clean());
        assert!(stopped().cannot_clean());
        let annotated = There { annotated: stopped().annotated, ..There::default() };
        assert!(annotated.cannot_clean(), "kubectl delete leaves these");
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
