//! The policy that ties each agent to its own Node.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};

use super::super::finding::Finding;

const CHECK: &str = "admission";
/// Name of the policy and of its binding.
pub(super) const POLICY: &str = "selvedge-nodes";
const REMEDY: &str = "apply deploy/base/admission.yaml (Kubernetes 1.30 or newer)";

/// `installed`: some Node carries Selvedge's annotations.
pub(super) fn judge(
    policy: &Result<Option<ValidatingAdmissionPolicy>, String>,
    binding: &Result<Option<ValidatingAdmissionPolicyBinding>, String>,
    installed: bool,
) -> Finding {
    match (policy, binding) {
        (Err(error), _) | (_, Err(error)) => Finding::skipped(CHECK, format!("cannot be looked at: {error}")),
        (Ok(Some(policy)), Ok(Some(binding))) => match fault(policy, binding) {
            Some(fault) => Finding::problem(CHECK, fault, REMEDY),
            None => Finding::ok(CHECK, format!("policy {POLICY} is there and bound")),
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
        let mut objects: Vec<serde_json::Value> = serde_saphyr::from_multiple(text).unwrap();
        let binding = serde_json::from_value(objects.pop().unwrap()).unwrap();
        (serde_json::from_value(objects.pop().unwrap()).unwrap(), binding)
    }

    #[test]
    fn as_shipped_it_is_well() {
        let (policy, binding) = shipped();
        assert_eq!(judge(&Ok(Some(policy)), &Ok(Some(binding)), true).severity, Severity::Ok);
    }

    #[test]
    fn absence_matters_once_there_are_members() {
        let (policy, _) = shipped();
        assert_eq!(judge(&Ok(None), &Ok(None), false).severity, Severity::Skipped);
        assert_eq!(judge(&Ok(None), &Ok(None), true).severity, Severity::Problem);
        let unbound = judge(&Ok(Some(policy)), &Ok(None), false);
        assert!(unbound.severity == Severity::Problem && unbound.seen.contains("no binding"), "{unbound:?}");
        assert_eq!(judge(&Err("403".into()), &Ok(None), true).severity, Severity::Skipped);
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
