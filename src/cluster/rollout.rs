//! Whether all that was asked for runs, and what is in its way.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use tokio::time::Instant;

use super::{Error, LOOK, ours};
use crate::manifest::NAMESPACE;

/// What a container says while all is well with it.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// Our DaemonSets that are waited for.
    pub sets: Vec<DaemonSet>,
    /// Names of those that are not there.
    pub missing: Vec<String>,
    /// Our pods.
    pub pods: Vec<Pod>,
    /// Nodes that run Linux.
    pub nodes: Vec<Node>,
    /// Warnings in our namespace.
    pub warnings: Vec<Event>,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Each DaemonSet.
    pub daemon_sets: Vec<Share>,
    /// Nodes that are ready for pods.
    pub nodes: Share,
    /// What is in the way, a sentence each.
    pub blocked: Vec<String>,
}

/// So many of so many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Of what.
    pub name: String,
    /// How many are as they should be.
    pub ready: usize,
    /// How many there are.
    pub of: usize,
    /// Whether these are all, and will be.
    pub done: bool,
}

impl Moment {
    /// Looks at the DaemonSets `names`, their pods and the Nodes.
    ///
    /// # Errors
    /// When the API server does not tell.
    pub async fn look(client: &Client, names: &[&str]) -> Result<Self, Error> {
        let all = ListParams::default();
        let ours = all.clone().labels(ours::SELECTOR);
        let linux = all.clone().labels("kubernetes.io/os=linux");
        let failed = |what: &str| {
            let doing = format!("list {what}");
            move |error| Error::call(doing, error)
        };
        let sets = Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE);
        let mut sets = sets.list(&all).await.map_err(failed("our DaemonSets"))?.items;
        sets.retain(|set| names.contains(&&*set.name_any()));
        let missing = names.iter().filter(|name| sets.iter().all(|set| set.name_any() != **name));
        let missing = missing.map(ToString::to_string).collect();
        let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&ours).await;
        let nodes = Api::<Node>::all(client.clone()).list(&linux).await;
        let warnings =
            Api::<Event>::namespaced(client.clone(), NAMESPACE).list(&all.fields("type=Warning")).await;
        Ok(Self {
            sets,
            missing,
            pods: pods.map_err(failed("our pods"))?.items,
            nodes: nodes.map_err(failed("the Nodes"))?.items,
            warnings: warnings.map_err(failed("our Events"))?.items,
        })
    }

    /// Judges it.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let ready = self.nodes.iter().filter(|node| not_ready(node).is_none()).count();
        let nodes = Share {
            name: "Nodes ready".into(),
            ready,
            of: self.nodes.len(),
            done: ready == self.nodes.len(),
        };
        let absent = |name: &String| Share { name: name.clone(), ready: 0, of: 0, done: false };
        let daemon_sets: Vec<Share> =
            self.sets.iter().map(share).chain(self.missing.iter().map(absent)).collect();
        let blocked =
            if daemon_sets.iter().all(|set| set.done) && nodes.done { vec![] } else { self.blocked() };
        Progress { daemon_sets, nodes, blocked }
    }

    fn blocked(&self) -> Vec<String> {
        let missing =
            self.missing.iter().map(|name| format!("DaemonSet {name} is gone: somebody deleted it"));
        let mut blocked: Vec<String> = missing.collect();
        blocked.extend(self.sets.iter().filter_map(|set| self.refused(set)));
        blocked.extend(self.pods.iter().filter_map(stuck));
        for node in &self.nodes {
            blocked
                .extend(not_ready(node).map(|why| format!("Node {} is not ready: {why}", node.name_any())));
        }
        let mut seen = BTreeSet::new();
        blocked.retain(|text| seen.insert(text.clone()));
        blocked
    }

    /// A DaemonSet whose pods nobody lets it make: quotas and admission say no there.
    fn refused(&self, set: &DaemonSet) -> Option<String> {
        let status = set.status.as_ref()?;
        if status.current_number_scheduled >= status.desired_number_scheduled {
            return None;
        }
        let about = |event: &&Event| {
            let object = &event.involved_object;
            object.name.as_deref() == Some(&set.name_any()) && event.reason.as_deref() == Some("FailedCreate")
        };
        let last = self.warnings.iter().filter(about).max_by_key(|event| event.last_timestamp.clone())?;
        Some(format!(
            "DaemonSet {} may make no pods: {}",
            set.name_any(),
            last.message.as_deref().unwrap_or_default()
        ))
    }
}

impl Progress {
    /// Whether there is nothing more to wait for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.daemon_sets.iter().all(|set| set.done) && self.nodes.done
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for share in &self.daemon_sets {
            write!(f, "{} {} of {}, ", share.name, share.ready, share.of)?;
        }
        write!(f, "{} {} of {}", self.nodes.name, self.nodes.ready, self.nodes.of)
    }
}

/// Looks until there is nothing more to wait for, or `timeout` is over, and tells `tell` of each look. Gives the last one.
///
/// # Errors
/// When the API server does not tell; for a while it may not answer.
pub async fn follow(
    client: &Client,
    names: &[&str],
    timeout: Duration,
    tell: &mut dyn FnMut(&Progress),
) -> Result<Progress, Error> {
    let end = Instant::now() + timeout;
    loop {
        match Moment::look(client, names).await {
            Ok(moment) => {
                let progress = moment.progress();
                tell(&progress);
                if progress.is_done() || Instant::now() >= end {
                    return Ok(progress);
                }
            }
            Err(error) if error.is_transient() && Instant::now() < end => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many pods of a DaemonSet are new and available. (kubectl, `rollout_status.go`)
#[must_use]
pub fn share(set: &DaemonSet) -> Share {
    let status = set.status.clone().unwrap_or_default();
    let count = |number: i32| usize::try_from(number).unwrap_or(0);
    let desired = count(status.desired_number_scheduled);
    let updated = count(status.updated_number_scheduled.unwrap_or(0));
    let ready = updated.min(count(status.number_available.unwrap_or(0)));
    let seen = set.metadata.generation.is_some() && status.observed_generation == set.metadata.generation;
    let (ready, of) = if seen { (ready, desired) } else { (0, desired) };
    Share { name: set.name_any(), ready, of, done: seen && ready >= desired }
}

/// Why a pod does not run, if it says so.
#[must_use]
pub fn stuck(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let place = node.map_or_else(String::new, |node| format!(" on Node {node}"));
    let about = |why: String| format!("pod {}{place}: {why}", pod.name_any());
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find_map(|condition| condition.message.clone());
    if let Some(why) = unscheduled {
        return Some(about(why));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let why = containers.into_iter().find_map(ailing);
    let evicted = || (status.phase.as_deref() == Some("Failed")).then(|| status.message.clone()).flatten();
    why.or_else(evicted).map(about)
}

fn ailing(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| !STARTING.contains(reason))?;
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let said = last.and_then(|last| last.message.as_deref()).map(|text| text.trim().to_owned());
    let ended = || last.map(|last| format!("it ended with {}", last.exit_code));
    let why = said.filter(|text| !text.is_empty()).or_else(ended).or_else(|| waiting.message.clone());
    let remedy = match reason {
        "ErrImageNeverPull" | "ErrImagePull" | "ImagePullBackOff" => {
            ". Load the image on the node, or name one that it can pull with --image"
        }
        _ => "",
    };
    Some(format!("{reason} of {}: {}{remedy}", container.image, why.unwrap_or_default()))
}

/// Why a Node is not ready; none if it is.
pub(super) fn not_ready(node: &Node) -> Option<String> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    match conditions.into_iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => Some(ready.message.clone().unwrap_or_default()),
        None => Some("its kubelet has not said anything yet".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(desired: i32, updated: i32, available: i32, observed: i64) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "selvedge-agent", "generation": 2},
            "status": {
                "observedGeneration": observed, "desiredNumberScheduled": desired, "currentNumberScheduled": updated,
                "updatedNumberScheduled": updated, "numberAvailable": available, "numberMisscheduled": 0,
                "numberReady": available},
        }))
        .unwrap()
    }

    fn node(name: &str, ready: bool) -> Node {
        let status = if ready { "True" } else { "False" };
        let condition = json!({"type": "Ready", "status": status, "message": "cni plugin not initialized"});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": [condition]}}))
            .unwrap()
    }

    fn pod(state: &serde_json::Value, last: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "selvedge-agent-x"}, "spec": {"nodeName": "n1", "containers": []},
            "status": {"containerStatuses": [{
                "name": "agent", "image": "localhost/selvedge:9", "imageID": "", "ready": false, "restartCount": 0,
                "state": state, "lastState": last}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_done_when_every_new_pod_is_available() {
        assert!(share(&set(3, 3, 3, 2)).done);
        for unfinished in [set(3, 3, 2, 2), set(3, 2, 3, 2), set(3, 3, 3, 1)] {
            assert!(!share(&unfinished).done);
        }
        let none: DaemonSet =
            serde_json::from_value(json!({"metadata": {"name": "a", "generation": 1}})).unwrap();
        assert!(!share(&none).done, "a controller has yet to see it");
    }

    #[test]
    fn progress_counts_and_says_what_is_in_the_way() {
        let waiting =
            json!({"waiting": {"reason": "ErrImageNeverPull", "message": "Container image is not present"}});
        let mut moment = Moment {
            sets: vec![set(2, 2, 1, 2)],
            nodes: vec![node("n1", false), node("n2", true)],
            pods: vec![pod(&waiting, &json!({}))],
            ..Moment::default()
        };
        let progress = moment.progress();
        assert_eq!(progress.to_string(), "selvedge-agent 1 of 2, Nodes ready 1 of 2");
        assert!(!progress.is_done());
        let blocked = progress.blocked.join("\n");
        for part in
            ["on Node n1: ErrImageNeverPull of localhost/selvedge:9", "--image", "Node n1 is not ready: cni"]
        {
            assert!(blocked.contains(part), "{part:?} is missing in {blocked}");
        }
        moment.sets = vec![set(2, 2, 2, 2)];
        moment.nodes = vec![node("n1", true)];
        assert!(moment.progress().is_done() && moment.progress().blocked.is_empty());
    }

    #[test]
    fn a_daemon_set_that_is_not_there_is_not_done() {
        let moment = Moment {
            sets: vec![set(2, 2, 2, 2)],
            missing: vec!["selvedge-tunnel".into()],
            nodes: vec![node("n1", true)],
            ..Moment::default()
        };
        let progress = moment.progress();
        assert!(!progress.is_done());
        assert_eq!(progress.to_string(), "selvedge-agent 2 of 2, selvedge-tunnel 0 of 0, Nodes ready 1 of 1");
        assert_eq!(progress.blocked, ["DaemonSet selvedge-tunnel is gone: somebody deleted it"]);
    }

    #[test]
    fn a_pod_that_breaks_says_what_it_said_last() {
        let waiting =
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}});
        let last = json!({"terminated": {"exitCode": 1, "message": "selvedge: no ranges\n"}});
        let why = stuck(&pod(&waiting, &last)).unwrap();
        assert!(why.ends_with("CrashLoopBackOff of localhost/selvedge:9: selvedge: no ranges"), "{why}");
        assert_eq!(stuck(&pod(&json!({"waiting": {"reason": "ContainerCreating"}}), &json!({}))), None);
        assert_eq!(stuck(&pod(&json!({"running": {}}), &json!({}))), None);
    }

    #[test]
    fn a_quota_that_forbids_pods_is_told() {
        let event = json!({
            "metadata": {}, "type": "Warning", "reason": "FailedCreate", "message": "exceeded quota",
            "involvedObject": {"kind": "DaemonSet", "name": "selvedge-agent"}});
        let moment = Moment {
            sets: vec![set(2, 0, 0, 2)],
            warnings: vec![serde_json::from_value(event).unwrap()],
            ..Moment::default()
        };
        assert_eq!(moment.progress().blocked, ["DaemonSet selvedge-agent may make no pods: exceeded quota"]);
    }
}
