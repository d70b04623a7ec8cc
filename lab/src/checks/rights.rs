//! The agents' rights: every one that the manifests give is used in the run, and none that they need is missing.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::audit::{Asked, asked};
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;

/// Runs this check, which looks back on all that was done, and tells `report`.
pub fn rights(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    check("rights of the agents", report, || {
        let file = cluster.deploy_folder().join("base/rbac.yaml");
        let text =
            std::fs::read_to_string(&file).map_err(|error| Failed(format!("{}: {error}", file.display())))?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text)
            .map_err(|error| Failed(format!("{}: {error}", file.display())))?;
        judge(&granted(&objects), &asked(cluster)?)
    });
}

/// A verb on a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    verb: String,
    group: String,
    resource: String,
    /// Empty for all, and for what has none.
    namespace: String,
}

impl Right {
    fn covers(&self, asked: &Asked) -> bool {
        let everywhere = self.namespace.is_empty();
        // Where an API server brings the list with the watch, nobody lists.
        let is_list = self.verb == "list" && asked.lists;
        let verb = if is_list { &self.verb } else { &asked.verb };
        (&self.verb, &self.group, &self.resource) == (verb, &asked.group, &asked.resource)
            && (everywhere || self.namespace == asked.namespace)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, " of {}", self.group)?;
        }
        if !self.namespace.is_empty() {
            write!(f, " in {}", self.namespace)?;
        }
        Ok(())
    }
}

/// What the roles among `objects` give that are bound there. Others are for people.
fn granted(objects: &[Value]) -> BTreeSet<Right> {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let bound: BTreeSet<&str> =
        objects.iter().filter_map(|object| object["roleRef"]["name"].as_str()).collect();
    let is_bound = |role: &&Value| role["metadata"]["name"].as_str().is_some_and(|name| bound.contains(name));
    let mut rights = BTreeSet::new();
    for role in objects.iter().filter(is_bound) {
        let namespace = match role["kind"].as_str() {
            Some("ClusterRole") => "",
            Some("Role") => role["metadata"]["namespace"].as_str().unwrap_or_default(),
            _ => continue,
        };
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        let (group, resource) = (group.clone(), resource.clone());
                        rights.insert(Right { verb, group, resource, namespace: namespace.to_owned() });
                    }
                }
            }
        }
    }
    rights
}

fn judge(granted: &BTreeSet<Right>, asked: &[Asked]) -> Result<String, Failed> {
    let mut wrong = Vec::new();
    for right in granted.iter().filter(|right| !asked.iter().any(|asked| right.covers(asked))) {
        wrong.push(format!("{right} is granted and was never used"));
    }
    let (mut early, mut refused) = (0, BTreeSet::new());
    for (at, request) in asked.iter().enumerate().filter(|(_, asked)| asked.code == 403) {
        // An API server that has just started does not know all roles yet.
        let given = granted.iter().any(|right| right.covers(request));
        if given && asked[at..].iter().any(|later| is_allowed_later(request, later)) {
            early += 1;
        } else {
            refused.insert(format!("{} {} {}", request.verb, request.resource, request.namespace));
        }
    }
    wrong.extend(refused.iter().map(|what| format!("{} was refused (403)", what.trim_end())));
    if !wrong.is_empty() {
        return Err(Failed(wrong.join("; ")));
    }
    let early = match early {
        0 => String::new(),
        early => format!(" but {early}, by an API server that had just started"),
    };
    Ok(format!("{} verbs, all used in {} requests, none refused{early}", granted.len(), asked.len()))
}

fn is_allowed_later(request: &Asked, later: &Asked) -> bool {
    let of = |asked: &Asked| (asked.pod.clone(), asked.verb.clone(), asked.resource.clone());
    of(request) == of(later) && matches!(later.code, 200..=299)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn roles() -> Vec<Value> {
        let rules = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}]);
        let events = json!([{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}]);
        vec![
            json!({"kind": "ServiceAccount"}),
            json!({"kind": "ClusterRole", "metadata": {"name": "agent"}, "rules": rules}),
            json!({"kind": "Role", "metadata": {"name": "events", "namespace": "default"}, "rules": events}),
            json!({"kind": "ClusterRole", "metadata": {"name": "operator"}, "rules": [{"apiGroups": [""],
                "resources": ["nodes"], "verbs": ["delete"]}]}),
            json!({"kind": "ClusterRoleBinding", "roleRef": {"name": "agent"}}),
            json!({"kind": "RoleBinding", "roleRef": {"name": "events"}}),
        ]
    }

    fn request(verb: &str, group: &str, resource: &str, namespace: &str, code: u64) -> Asked {
        let [verb, group, resource, namespace] = [verb, group, resource, namespace].map(str::to_owned);
        Asked { verb, group, resource, namespace, code, ..Asked::default() }
    }

    #[test]
    fn what_is_not_used_and_what_is_refused_fails() {
        let rights = granted(&roles());
        let names: Vec<String> = rights.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["create events of events.k8s.io in default", "get nodes", "list nodes"]);
        let all = vec![
            request("get", "", "nodes", "", 200),
            request("list", "", "nodes", "", 200),
            request("create", "events.k8s.io", "events", "default", 201),
        ];
        judge(&rights, &all).unwrap();
        let why = judge(&rights, &all[..2]).unwrap_err().0;
        assert_eq!(why, "create events of events.k8s.io in default is granted and was never used");
        let elsewhere = request("create", "events.k8s.io", "events", "other", 201);
        assert!(judge(&rights, &[all[0].clone(), all[1].clone(), elsewhere]).is_err());
        let refused = request("delete", "", "nodes", "", 403);
        let why = judge(&rights, &[all.clone(), vec![refused]].concat()).unwrap_err().0;
        assert_eq!(why, "delete nodes was refused (403)");
        let early = vec![request("get", "", "nodes", "", 403)];
        judge(&rights, &[early.clone(), all.clone()].concat()).unwrap();
        assert!(judge(&rights, &[all, early].concat()).is_err(), "and not allowed later");
    }
}
