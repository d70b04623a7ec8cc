//! The policy that ties each agent to its own Node.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::super::finding::Finding;
use crate::manifest;

const CHECK: &str = "admission";
/// Name of the policy and of its binding.
pub(super) const POLICY: &str = "selvedge-nodes";
const REMEDY: &str = "apply deploy/base/admission.yaml (Kubernetes 1.30 or newer)";

/// `taint`: the agents' start-up taint. `installed`: some Node carries Selvedge's annotations.
pub(super) fn judge(
    policy: &Result<Option<ValidatingAdmissionPolicy>, String>,
    binding: &Result<Option<ValidatingAdmissionPolicyBinding>, String>,
    taint: Option<&str>,
    installed: bool,
) -> Finding {
    match (policy, binding) {
        (Err(error), _) | (_, Err(error)) => Finding::skipped(CHECK, format!("cannot be looked at: {error}")),
        (Ok(Some(policy)), Ok(Some(binding))) => match fault(policy, binding) {
            Some(fault) => Finding::problem(CHECK, fault, REMEDY),
            None => compare(policy, taint),
        },
        (Ok(None), Ok(None)) if !installed => {
            Finding::skipped(CHECK, "Selvedge is not installed in this cluster yet")
        }
        (Ok(policy), _) => {
            let what = if policy.is_none() { "policy" } else { "binding" };
            let seen =
                format!("there is no {what} {POLICY}: whoever may patch a Node can take another's place");
            Finding::problem(CHECK, seen, REMEDY)
        }
    }
}

/// With what is shipped; another version's may be right for that version.
fn compare(policy: &ValidatingAdmissionPolicy, taint: Option<&str>) -> Finding {
    let shipped = manifest::admission_policy(taint)
        .and_then(|shipped| serde_json::from_value::<ValidatingAdmissionPolicy>(shipped.0).ok());
    let parts = |policy: Option<&ValidatingAdmissionPolicy>| policy?.spec.as_ref().map(parts);
    match (parts(Some(policy)), parts(shipped.as_ref())) {
        (Some(found), Some(wanted)) => {
            let differs = |(name, value): &(&'static str, Value)| {
                wanted.iter().all(|part| part != &(*name, value.clone())).then_some(*name)
            };
            let differing: Vec<_> = found.iter().filter_map(differs).collect();
            if differing.is_empty() {
                return Finding::ok(CHECK, format!("policy {POLICY} is there and bound"));
            }
            let seen = format!("policy {POLICY} is not the one of this version: {}", differing.join(", "));
            Finding::warning(CHECK, seen, REMEDY)
        }
        _ => Finding::problem(CHECK, format!("policy {POLICY} has no spec"), REMEDY),
    }
}

/// What a policy says, without what the API server writes into it by itself.
fn parts(spec: &ValidatingAdmissionPolicySpec) -> Vec<(&'static str, Value)> {
    let mut constraints = spec.match_constraints.clone().unwrap_or_default();
    constraints.match_policy = constraints.match_policy.filter(|policy| policy != "Equivalent");
    let some = |selector: &LabelSelector| *selector != LabelSelector::default();
    constraints.namespace_selector = constraints.namespace_selector.filter(some);
    constraints.object_selector = constraints.object_selector.filter(some);
    vec![
        ("matchConstraints", json!(constraints)),
        ("matchConditions", json!(spec.match_conditions)),
        ("variables", json!(spec.variables)),
        ("validations", json!(spec.validations)),
    ]
}

fn fault(policy: &ValidatingAdmissionPolicy, binding: &ValidatingAdmissionPolicyBinding) -> Option<String> {
    let failure = policy.spec.as_ref().and_then(|spec| spec.failure_policy.as_deref());
    // Absent means Fail.
    if failure.is_some_and(|failure| failure != "Fail") {
        return Some(format!("policy {POLICY} does not deny when it fails (failurePolicy)"));
    }
    let spec = &binding.spec;
    if spec.policy_name != POLICY {
        return Some(format!("binding {POLICY} binds {:?}", spec.policy_name));
    }
    for (narrows, field) in
        [(spec.match_resources.is_some(), "matchResources"), (spec.param_ref.is_some(), "paramRef")]
    {
        if narrows {
            return Some(format!("binding {POLICY} does not hold for every Node ({field})"));
        }
    }
    let denies = spec.validation_actions.iter().any(|action| action == "Deny");
    (!denies).then(|| format!("binding {POLICY} does not deny (validationActions)"))
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    /// Policy and binding as shipped.
    fn shipped() -> (ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding) {
        let text = include_str!("../../../deploy/base/admission.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let mut named = objects.into_iter().filter(|object| object["metadata"]["name"] == POLICY);
        let policy = serde_json::from_value(named.next().unwrap()).unwrap();
        (policy, serde_json::from_value(named.next().unwrap()).unwrap())
    }

    #[test]
    fn as_shipped_it_is_well() {
        let (policy, binding) = shipped();
        let severity = |policy: &ValidatingAdmissionPolicy, taint| {
            judge(&Ok(Some(policy.clone())), &Ok(Some(binding.clone())), taint, true).severity
        };
        assert_eq!(severity(&policy, None), Severity::Ok);
        assert_eq!(severity(&policy, Some("selvedge.dev/not-ready")), Severity::Ok);
        assert_eq!(severity(&policy, Some("example.org/wait")), Severity::Warning);
        let mut defaulted = policy.clone();
        let constraints = defaulted.spec.as_mut().unwrap().match_constraints.as_mut().unwrap();
        constraints.match_policy = Some("Equivalent".into());
        constraints.namespace_selector = Some(LabelSelector::default());
        assert_eq!(severity(&defaulted, None), Severity::Ok);
        let guts: [fn(&mut ValidatingAdmissionPolicySpec); 4] = [
            |spec| spec.validations = None,
            |spec| spec.match_conditions = None,
            |spec| spec.variables.as_mut().unwrap()[0].expression = "false".into(),
            |spec| spec.match_constraints.as_mut().unwrap().resource_rules = None,
        ];
        for gut in guts {
            let mut gutted = policy.clone();
            gut(gutted.spec.as_mut().unwrap());
            assert_eq!(severity(&gutted, None), Severity::Warning);
        }
    }

    #[test]
    fn a_binding_for_some_nodes_alone_is_a_problem() {
        let (policy, mut binding) = shipped();
        binding.spec.match_resources = Some(Default::default());
        assert!(fault(&policy, &binding).unwrap().contains("matchResources"));
        binding.spec.match_resources = None;
        binding.spec.param_ref = Some(Default::default());
        assert!(fault(&policy, &binding).unwrap().contains("paramRef"));
    }

    #[test]
    fn absence_matters_once_there_are_members() {
        let (policy, _) = shipped();
        assert_eq!(judge(&Ok(None), &Ok(None), None, false).severity, Severity::Skipped);
        assert_eq!(judge(&Ok(None), &Ok(None), None, true).severity, Severity::Problem);
        let unbound = judge(&Ok(Some(policy)), &Ok(None), None, false);
        assert!(unbound.severity == Severity::Problem && unbound.seen.contains("no binding"), "{unbound:?}");
        assert_eq!(judge(&Err("403".into()), &Ok(None), None, true).severity, Severity::Skipped);
    }

    #[test]
    fn one_that_does_not_deny_is_a_problem() {
        let (mut policy, mut binding) = shipped();
        binding.spec.validation_actions = vec!["Audit".into()];
        assert!(fault(&policy, &binding).unwrap().contains("validationActions"));
        policy.spec.as_mut().unwrap().failure_policy = Some("Ignore".into());
        assert!(fault(&policy, &binding).unwrap().contains("failurePolicy"));
    }
}
