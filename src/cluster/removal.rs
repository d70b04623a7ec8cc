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
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::rollout::{share, stuck};
use super::there::{self, Step, There};
use super::{Error, LOOK, MANAGER, absent, code, is_transient};
use crate::manifest::{AGENT, Id, NAMESPACE, TUNNEL, cleanup};

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
        let Some(object) = cleanup::daemon_set(&there::value(source), *purge, image.as_deref(), held) else {
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

fn waits_for(pods: &[Pod]) -> String {
    let place = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let names: Vec<String> = pods.iter().map(|pod| format!("{} on {}", pod.name_any(), place(pod))).collect();
    names.join(", ")
}
