//! Label and field selectors.

use serde_json::Value;

use super::{failure::Failure, object};

/// What a list or watch is restricted to.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl Selector {
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self { labels: requirements(labels)?, fields: requirements(fields)? })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|wanted| wanted.matches(labels[&wanted.key].as_str()))
            && self.fields.iter().all(|wanted| wanted.matches(Some(&object::field(object, &wanted.key))))
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let among = |values: &[String]| value.is_some_and(|value| values.iter().any(|other| other == value));
        match &self.test {
            Test::In(values) => among(values),
            Test::NotIn(values) => !among(values),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
        }
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, Failure> {
    split(text).into_iter().map(str::trim).filter(|part| !part.is_empty()).map(requirement).collect()
}

/// At commas that are in no parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn requirement(text: &str) -> Result<Requirement, Failure> {
    let of = |key: &str, test| Ok(Requirement { key: key.trim().to_owned(), test });
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = text.split_once("!=") {
        return of(key, Test::NotIn(one(value)));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return of(key, Test::In(one(value)));
    }
    if let Some(key) = text.strip_prefix('!') {
        return of(key, Test::Missing);
    }
    let Some((head, values)) = text.split_once('(') else { return of(text, Test::Exists) };
    let values = values.trim_end_matches(')').split(',').map(|value| value.trim().to_owned()).collect();
    match head.trim().rsplit_once(' ') {
        Some((key, "in")) => of(key, Test::In(values)),
        Some((key, "notin")) => of(key, Test::NotIn(values)),
        _ => Err(Failure::bad_request(format!("unable to parse requirement \"{text}\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_select() {
        let pod = json!({"metadata": {"name": "web", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "node1", "hostNetwork": true}});
        let selects = |labels, fields| Selector::parse(labels, fields).unwrap().matches(&pod);
        assert!(selects("app=web,tier in (front, back),!old,app,tier notin (x),absent!=y", ""));
        assert!(selects("", "spec.nodeName=node1,metadata.name!=other,spec.hostNetwork=true,status.phase="));
        for labels in ["app!=web", "!app", "app in (x,y)", "absent", "tier notin (front)", "app==other"] {
            assert!(!selects(labels, ""), "{labels}");
        }
        assert!(!selects("", "spec.nodeName="));
        assert_eq!(Selector::parse("app among (x)", "").unwrap_err().code, 400);
    }
}
