//! What has become of an installation, for people and for programs.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::{Exit, table};
use crate::cluster::apply::{Applied, Outcome};
use crate::cluster::rollout::Progress;
use crate::manifest::{NAMESPACE, Settings};

/// The answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    distribution: &'static str,
    image: String,
    #[serde(rename = "clusterPodCIDRs")]
    pods: Vec<ipnet::IpNet>,
    #[serde(rename = "serviceCIDRs")]
    services: Vec<ipnet::IpNet>,
    dry_run: bool,
    pub(super) findings: Vec<String>,
    pub(super) objects: Vec<Applied>,
    pub(super) rollout: Option<Progress>,
}

impl Answer {
    pub(super) fn new(settings: &Settings, dry_run: bool) -> Self {
        Self {
            distribution: settings.distribution.name(),
            image: settings.image.clone(),
            pods: settings.config.cluster_pod_cidrs.clone(),
            services: settings.config.service_cidrs.clone(),
            dry_run,
            findings: Vec::new(),
            objects: Vec::new(),
            rollout: None,
        }
    }

    pub(super) fn json(&self, exit: Exit) -> Value {
        let mut value = serde_json::to_value(self).expect("an answer has only text keys");
        value["done"] = json!(exit == Exit::Ok && !self.dry_run);
        value
    }

    pub(super) fn table(&self, exit: Exit) -> String {
        if !self.findings.is_empty() {
            let each = self.findings.iter().map(|finding| format!("finding: {finding}\n"));
            let text: String = each.collect();
            return text
                + "nothing was changed; --force installs all the same, where another option is not named\n";
        }
        let rows: Vec<_> = self.objects.iter().map(row).collect();
        let mut text = table::render(&["KIND", "NAME", "RESULT"], &rows, &[]);
        if self.dry_run {
            return text + self.taken();
        }
        if let Some(rollout) = &self.rollout {
            text += &format!("{rollout}\n");
            text.extend(rollout.blocked.iter().map(|why| format!("problem: {why}\n")));
        }
        text + &next(self.rollout.is_some(), exit == Exit::Ok)
    }

    /// How a dry run ends.
    fn taken(&self) -> &'static str {
        match self.objects.iter().any(|applied| applied.result == Outcome::Untried) {
            false => "nothing was changed: the API server takes all of it\n",
            true => {
                "nothing was changed: the API server takes all that could be tried; the rest only once the namespace \
                 is there\n"
            }
        }
    }
}

/// What to do now.
fn next(waited: bool, ready: bool) -> String {
    let status = format!("kubectl -n {NAMESPACE} exec daemonset/selvedge-agent -- /selvedge status");
    match (waited, ready) {
        (true, true) => format!(
            "Selvedge is ready. Peers of a node:\n  {status}\nTake it off again: selvedge uninstall\n"
        ),
        (true, false) => format!(
            "not all is ready in time. It goes on by itself: run this again to look, and see\n  kubectl -n \
             {NAMESPACE} get pods -o wide\n  kubectl -n {NAMESPACE} logs daemonset/selvedge-agent\n"
        ),
        (false, _) => format!(
            "Nodes get ready one after another:\n  kubectl -n {NAMESPACE} rollout status daemonset/selvedge-agent\n"
        ),
    }
}

fn row(applied: &Applied) -> Vec<String> {
    let id = &applied.id;
    let result = match applied.result {
        Outcome::Created => "created",
        Outcome::Changed => "changed",
        Outcome::Unchanged => "unchanged",
        Outcome::Untried => "not tried",
    };
    let name = id.namespace.as_ref().map_or_else(|| id.name.clone(), |space| format!("{space}/{}", id.name));
    vec![id.kind.clone(), name, result.into()]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cluster::rollout::Share;
    use crate::manifest::{Distribution, configuration, default_image};

    fn answer() -> Answer {
        let text = include_str!("../../../deploy/overlays/kubeadm/config.toml");
        let settings = Settings {
            distribution: Distribution::Kubeadm,
            text: text.into(),
            config: configuration::parse(Path::new("x"), text).unwrap(),
            image: default_image(),
            api_server: None,
        };
        let mut answer = Answer::new(&settings, false);
        let each = settings.objects().into_iter();
        answer.objects = each.map(|object| Applied { id: object.id(), result: Outcome::Created }).collect();
        answer
    }

    fn rollout(ready: usize) -> Progress {
        let share = |name: &str| Share { name: name.into(), ready, of: 2, done: ready == 2 };
        let blocked = if ready == 2 { vec![] } else { vec!["pod a on Node n1: ErrImagePull".into()] };
        Progress { daemon_sets: vec![share("selvedge-tunnel")], nodes: share("Nodes ready"), blocked }
    }

    #[test]
    fn the_table_fits_a_terminal_and_ends_with_what_to_do() {
        for (ready, exit) in [(2, Exit::Ok), (1, Exit::Findings)] {
            let answer = Answer { rollout: Some(rollout(ready)), ..answer() };
            let text = answer.table(exit);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            assert!(text.contains("selvedge-system/selvedge-agent") && text.contains("created"), "{text}");
            assert_eq!(text.contains("Selvedge is ready"), ready == 2, "{text}");
            assert_eq!(text.contains("problem: pod a on Node n1"), ready == 1, "{text}");
        }
    }

    #[test]
    fn what_could_not_be_tried_is_not_said_to_be_taken() {
        let mut answer = Answer { dry_run: true, ..answer() };
        assert!(answer.table(Exit::Ok).ends_with("takes all of it\n"));
        answer.objects[3].result = Outcome::Untried;
        let text = answer.table(Exit::Ok);
        assert!(text.contains("not tried\n") && text.contains("all that could be tried"), "{text}");
    }

    #[test]
    fn json_says_whether_it_is_done() {
        let answer = Answer { rollout: Some(rollout(2)), ..answer() };
        let value = answer.json(Exit::Ok);
        assert_eq!((&value["done"], &value["clusterPodCIDRs"][0]), (&json!(true), &json!("10.244.0.0/16")));
        assert_eq!(
            value["objects"][0],
            json!({"apiVersion": "v1", "kind": "Namespace", "name": NAMESPACE, "result": "created"})
        );
        assert_eq!(answer.json(Exit::Findings)["done"], false);
        let findings = Answer { findings: vec!["there is Flannel".into()], ..answer };
        assert!(findings.table(Exit::Findings).starts_with("finding: there is Flannel\n"));
    }
}
