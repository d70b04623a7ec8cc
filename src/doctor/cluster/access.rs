//! Whether the agent may do what it has to.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::super::finding::Finding;
use super::AGENT;
use super::reason::reason;

const CHECK: &str = "rbac";

/// One right: group, resource with subresource, verb, namespace (empty: cluster-wide).
type Right = (&'static str, &'static str, &'static str, &'static str);

/// What `deploy/base/rbac.yaml` gives the agent.
const NEEDED: [Right; 18] = [
    ("", "nodes", "get", ""),
    ("", "nodes", "list", ""),
    ("", "nodes", "watch", ""),
    ("", "nodes", "patch", ""),
    ("", "nodes/status", "patch", ""),
    ("", "services", "list", ""),
    ("", "services", "watch", ""),
    ("discovery.k8s.io", "endpointslices", "list", ""),
    ("discovery.k8s.io", "endpointslices", "watch", ""),
    ("networking.k8s.io", "servicecidrs", "list", ""),
    ("networking.k8s.io", "servicecidrs", "watch", ""),
    ("selvedge.dev", "keyrotations", "list", ""),
    ("selvedge.dev", "keyrotations", "watch", ""),
    ("selvedge.dev", "keyrevocations", "list", ""),
    ("selvedge.dev", "keyrevocations", "watch", ""),
    ("selvedge.dev", "keyrotations/status", "patch", ""),
    ("events.k8s.io", "events", "create", ""),
    ("events.k8s.io", "events", "patch", "default"),
];

/// What the API server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rights {
    /// This is not the agent: who it is, if the server tells.
    NotAgent(Option<String>),
    /// The server does not tell.
    Unknown(String),
    /// Nobody but the agent may ask as the agent.
    Forbidden(String),
    /// The rights that the agent does not have.
    Missing(Vec<Right>),
}

/// `sure`: the client asks as the agent, whoever that is.
pub(super) async fn gather(client: &Client, sure: bool) -> Rights {
    if !sure {
        match who(client).await {
            Some(user) if user == AGENT => {}
            other => return Rights::NotAgent(other),
        }
    }
    let mut missing = Vec::new();
    for right in NEEDED {
        match may(client, right).await {
            Ok(true) => {}
            Ok(false) => missing.push(right),
            Err(kube::Error::Api(status)) if sure && status.code == 403 => {
                return Rights::Forbidden(status.message.clone());
            }
            Err(error) => return Rights::Unknown(reason(&error)),
        }
    }
    Rights::Missing(missing)
}

async fn who(client: &Client) -> Option<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.ok()?;
    review.status?.user_info?.username
}

async fn may(client: &Client, (group, resource, verb, namespace): Right) -> kube::Result<bool> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let attributes = ResourceAttributes {
        group: text(group),
        resource: text(resource),
        subresource: text(subresource),
        verb: text(verb),
        namespace: text(namespace),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

pub(super) fn judge(rights: &Rights) -> Finding {
    match rights {
        Rights::NotAgent(who) => {
            let who = who.as_deref().unwrap_or("not the agent");
            Finding::skipped(CHECK, format!("asked as {who}; --as-agent asks for the agent's rights"))
        }
        Rights::Unknown(error) => Finding::skipped(CHECK, format!("the API server does not tell: {error}")),
        Rights::Forbidden(error) => Finding::problem(
            CHECK,
            format!("the agent's rights cannot be asked for: {error}"),
            "use a kubeconfig whose user may impersonate the agent, or leave --as-agent out",
        ),
        Rights::Missing(missing) if missing.is_empty() => {
            Finding::ok(CHECK, format!("the agent may do all {} things that it has to", NEEDED.len()))
        }
        Rights::Missing(missing) => {
            let list: Vec<_> = missing.iter().map(|(_, what, verb, _)| format!("{verb} {what}")).collect();
            Finding::problem(
                CHECK,
                format!("the agent may not {}", list.join(", ")),
                "apply deploy/base/rbac.yaml; see that its bindings name the agent's service account",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::super::finding::Severity;
    use super::*;

    /// What the manifest gives: each rule of its roles, for each group, resource and verb.
    fn given() -> BTreeSet<(String, String, String, String)> {
        let text = include_str!("../../../deploy/base/rbac.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let words = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
        let mut given = BTreeSet::new();
        let of_agent = |object: &&Value| {
            object["rules"].is_array() && object["metadata"]["name"] != "selvedge-key-operator"
        };
        for object in objects.iter().filter(of_agent) {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            for rule in object["rules"].as_array().unwrap() {
                for group in words(&rule["apiGroups"]) {
                    for resource in words(&rule["resources"]) {
                        for verb in words(&rule["verbs"]) {
                            given.insert((group.clone(), resource.clone(), verb, namespace.to_owned()));
                        }
                    }
                }
            }
        }
        given
    }

    #[test]
    fn what_is_needed_is_what_the_manifest_gives() {
        let needed: BTreeSet<_> =
            NEEDED.map(|(a, b, c, d)| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned())).into();
        assert_eq!(needed, given());
    }

    #[test]
    fn only_missing_rights_are_a_problem() {
        assert_eq!(judge(&Rights::Missing(vec![])).severity, Severity::Ok);
        let finding = judge(&Rights::Missing(vec![NEEDED[4], NEEDED[16]]));
        assert_eq!(finding.severity, Severity::Problem);
        assert_eq!(finding.seen, "the agent may not patch nodes/status, create events");
        assert_eq!(judge(&Rights::NotAgent(Some("admin".into()))).severity, Severity::Skipped);
        assert_eq!(judge(&Rights::Unknown("404".into())).severity, Severity::Skipped);
        assert_eq!(judge(&Rights::Forbidden("403".into())).severity, Severity::Problem);
    }
}
