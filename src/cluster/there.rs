//! What of Selvedge is in a cluster, and what is left to do to be rid of it.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;

use super::rollout::share;
use super::{Error, absent, ours};
use crate::manifest::{AGENT, Id, NAMESPACE, PREFIX, TUNNEL, cleanup, outside_of_the_namespace};

const PODS: &str = "app.kubernetes.io/name=selvedge,app.kubernetes.io/component in (agent,tunnel)";

/// What of Selvedge is there.
#[derive(Debug, Clone, Default)]
pub struct There {
    pub(super) agent: Option<DaemonSet>,
    tunnel: bool,
    pub(super) cleanup: Option<DaemonSet>,
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

/// As JSON.
pub(super) fn value(set: &DaemonSet) -> Value {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        assert_eq!(cleaned.next(false).len(), 8, "the policies and their bindings");
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
