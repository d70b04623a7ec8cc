//! The policies that tie each agent to its own Node, to its own Events and to its own key rotations.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::super::finding::Finding;
use crate::manifest;

const CHECK: &str = "admission";
const REMEDY: &str = "apply deploy/base/admission.yaml (Kubernetes 1.30 or newer)";

/// A policy and its binding, which has the same name.
#[derive(Debug)]
pub(super) struct ShippedPolicy {
    pub(super) name: &'static str,
    /// What is possible without it.
    risk: &'static str,
}

/// All that are shipped.
pub(super) const POLICIES: [ShippedPolicy; 4] = [
    ShippedPolicy { name: "selvedge-nodes", risk: "whoever may patch a Node can take another's place" },
    ShippedPolicy { name: "selvedge-events", risk: "the token of an agent can write any Event" },
    ShippedPolicy {
        name: "selvedge-key-rotations",
        risk: "whoever may write a KeyRotation can ask in another's name, and an agent can answer for others",
    },
    ShippedPolicy {
        name: "selvedge-key-revocations",
        risk: "whoever may write a KeyRevocation can revoke in another's name, and change it later",
    },
];

/// What the API server has of a policy; an error is for people.
#[derive(Debug, Clone)]
pub(super) struct FoundPolicy {
    pub(super) policy: Result<Option<ValidatingAdmissionPolicy>, String>,
    pub(super) binding: Result<Option<ValidatingAdmissionPolicyBinding>, String>,
}

/// `taint`: the agents' start-up taint. `installed`: some Node carries Selvedge's annotations.
pub(super) fn judge(found: &[FoundPolicy], taint: Option<&str>, installed: bool) -> Vec<Finding> {
    if let Some(error) =
        found.iter().find_map(|found| found.policy.as_ref().err().or(found.binding.as_ref().err()))
    {
        return vec![Finding::skipped(CHECK, format!("cannot be looked at: {error}"))];
    }
    let is_absent = |found: &FoundPolicy| matches!((&found.policy, &found.binding), (Ok(None), Ok(None)));
    if !installed && found.iter().all(is_absent) {
        return vec![Finding::skipped(CHECK, "Selvedge is not installed in this cluster yet")];
    }
    let findings: Vec<Finding> =
        POLICIES.iter().zip(found).filter_map(|(policy, found)| policy.judge(found, taint)).collect();
    if findings.is_empty() {
        return vec![Finding::ok(CHECK, format!("all {} policies are there and bound", POLICIES.len()))];
    }
    findings
}

impl ShippedPolicy {
    fn judge(&self, found: &FoundPolicy, taint: Option<&str>) -> Option<Finding> {
        let name = self.name;
        match (&found.policy, &found.binding) {
            (Ok(Some(policy)), Ok(Some(binding))) => match self.fault(policy, binding) {
                Some(fault) => Some(Finding::problem(CHECK, fault, REMEDY)),
                None => self.compare(policy, taint),
            },
            (policy, _) => {
                let what = if matches!(policy, Ok(Some(_))) { "binding" } else { "policy" };
                let seen = format!("there is no {what} {name}: {}", self.risk);
                Some(Finding::problem(CHECK, seen, REMEDY))
            }
        }
    }

    /// With what is shipped; another version's may be right for that version.
    fn compare(&self, policy: &ValidatingAdmissionPolicy, taint: Option<&str>) -> Option<Finding> {
        let name = self.name;
        let shipped = manifest::admission_policy(name, taint)
            .and_then(|shipped| serde_json::from_value::<ValidatingAdmissionPolicy>(shipped.0).ok());
        let parts = |policy: Option<&ValidatingAdmissionPolicy>| policy?.spec.as_ref().map(parts);
        match (parts(Some(policy)), parts(shipped.as_ref())) {
            (Some(found), Some(wanted)) => {
                let differs = |(name, value): &(&'static str, Value)| {
                    wanted.iter().all(|part| part != &(*name, value.clone())).then_some(*name)
                };
                let differing: Vec<_> = found.iter().filter_map(differs).collect();
                let seen = format!("policy {name} is not the one of this version: {}", differing.join(", "));
                (!differing.is_empty()).then(|| Finding::warning(CHECK, seen, REMEDY))
            }
            _ => Some(Finding::problem(CHECK, format!("policy {name} has no spec"), REMEDY)),
        }
    }

    fn fault(
        &self,
        policy: &ValidatingAdmissionPolicy,
        binding: &ValidatingAdmissionPolicyBinding,
    ) -> Option<String> {
        let name = self.name;
        let failure = policy.spec.as_ref().and_then(|spec| spec.failure_policy.as_deref());
        // Absent means Fail.
        if failure.is_some_and(|failure| failure != "Fail") {
            return Some(format!("policy {name} does not deny when it fails (failurePolicy)"));
        }
        let spec = &binding.spec;
        if spec.policy_name != name {
            return Some(format!("binding {name} binds {:?}", spec.policy_name));
        }
        for (narrows, field) in
            [(spec.match_resources.is_some(), "matchResources"), (spec.param_ref.is_some(), "paramRef")]
        {
            if narrows {
                return Some(format!("binding {name} does not hold for every object ({field})"));
            }
        }
        let denies = spec.validation_actions.iter().any(|action| action == "Deny");
        (!denies).then(|| format!("binding {name} does not deny (validationActions)"))
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

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    /// All policies and bindings as shipped.
    fn shipped() -> Vec<FoundPolicy> {
        let text = include_str!("../../../deploy/base/admission.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let found = POLICIES.map(|ShippedPolicy { name, .. }| {
            let mut named = objects.iter().filter(|object| object["metadata"]["name"] == name);
            let policy = serde_json::from_value(named.next().unwrap().clone()).unwrap();
            let binding = serde_json::from_value(named.next().unwrap().clone()).unwrap();
            FoundPolicy { policy: Ok(Some(policy)), binding: Ok(Some(binding)) }
        });
        assert_eq!(objects.len(), 2 * POLICIES.len(), "a policy that is not looked at");
        found.into()
    }

    fn policy(found: &mut FoundPolicy) -> &mut ValidatingAdmissionPolicySpec {
        found.policy.as_mut().unwrap().as_mut().unwrap().spec.as_mut().unwrap()
    }

    fn binding(found: &mut FoundPolicy) -> &mut ValidatingAdmissionPolicyBinding {
        found.binding.as_mut().unwrap().as_mut().unwrap()
    }

    fn only(found: &[FoundPolicy], taint: Option<&str>) -> Finding {
        let mut findings = judge(found, taint, true);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn as_shipped_they_are_well() {
        assert_eq!(only(&shipped(), None).severity, Severity::Ok);
        assert_eq!(only(&shipped(), Some("selvedge.dev/not-ready")).severity, Severity::Ok);
        assert_eq!(only(&shipped(), Some("example.org/wait")).severity, Severity::Warning);
        let mut defaulted = shipped();
        for found in &mut defaulted {
            let constraints = policy(found).match_constraints.as_mut().unwrap();
            constraints.match_policy = Some("Equivalent".into());
            constraints.namespace_selector = Some(LabelSelector::default());
        }
        assert_eq!(only(&defaulted, None).severity, Severity::Ok);
    }

    #[test]
    fn one_that_says_less_is_a_warning_that_names_it() {
        let guts: [fn(&mut ValidatingAdmissionPolicySpec); 2] = [
            |spec| spec.validations = None,
            |spec| spec.match_constraints.as_mut().unwrap().resource_rules = None,
        ];
        for (place, ShippedPolicy { name, .. }) in POLICIES.iter().enumerate() {
            for gut in guts {
                let mut gutted = shipped();
                gut(policy(&mut gutted[place]));
                let finding = only(&gutted, None);
                assert!(finding.severity == Severity::Warning && finding.seen.contains(name), "{finding:?}");
            }
        }
        let mut gutted = shipped();
        policy(&mut gutted[0]).match_conditions = None;
        assert_eq!(only(&gutted, None).severity, Severity::Warning);
        let mut gutted = shipped();
        policy(&mut gutted[0]).variables.as_mut().unwrap()[0].expression = "false".into();
        assert_eq!(only(&gutted, None).severity, Severity::Warning);
    }

    #[test]
    fn a_binding_for_some_objects_alone_is_a_problem() {
        let mut narrow = shipped();
        binding(&mut narrow[0]).spec.match_resources = Some(Default::default());
        assert!(only(&narrow, None).seen.contains("matchResources"));
        let mut narrow = shipped();
        binding(&mut narrow[1]).spec.param_ref = Some(Default::default());
        assert!(only(&narrow, None).seen.contains("paramRef"));
    }

    #[test]
    fn absence_matters_once_there_are_members() {
        let absent = || FoundPolicy { policy: Ok(None), binding: Ok(None) };
        let none = [absent(), absent(), absent(), absent()];
        assert_eq!(judge(&none, None, false)[0].severity, Severity::Skipped);
        let findings = judge(&none, None, true);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Problem), "{findings:?}");
        assert_eq!(findings.len(), POLICIES.len());
        let mut unbound = shipped();
        unbound[2].binding = Ok(None);
        let finding = only(&unbound, None);
        assert!(finding.severity == Severity::Problem, "{finding:?}");
        assert!(finding.seen.contains("no binding selvedge-key-rotations"), "{finding:?}");
        let mut unseen = shipped();
        unseen[1].policy = Err("403".into());
        assert_eq!(only(&unseen, None).severity, Severity::Skipped);
    }

    #[test]
    fn one_that_does_not_deny_is_a_problem() {
        let mut lax = shipped();
        binding(&mut lax[0]).spec.validation_actions = vec!["Audit".into()];
        assert!(only(&lax, None).seen.contains("validationActions"));
        policy(&mut lax[0]).failure_policy = Some("Ignore".into());
        assert!(only(&lax, None).seen.contains("failurePolicy"));
    }
}
