//! Who may write what on Nodes: a script with a case for each, against the real API server with the shipped policy.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Outcome, Report};
use crate::kubernetes::Kubernetes;

const SCRIPT: &str = "../tests/kubernetes/admission.sh";

/// Runs the script's cases and tells `report` of each; it prints a line `PASS case` or `FAIL case: why` for it.
pub fn admission(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    let (certificate, key) = cluster.client_authority();
    let mut command = Command::new(cluster.deploy_folder().join(SCRIPT));
    command.env("KUBECONFIG", cluster.kubeconfig()).env("KUBECTL", cluster.program("kubectl"));
    command.env("CLIENT_CA_CERT", certificate).env("CLIENT_CA_KEY", key);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut last = Instant::now();
    let mut tell = |name: &str, passed: bool, measured: String| {
        let took = std::mem::replace(&mut last, Instant::now()).elapsed();
        report(Report::Ended(&Outcome { name: name.to_owned(), passed, measured, took }));
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return tell("admission policy", false, format!("run {SCRIPT}: {error}")),
    };
    let mut cases = 0;
    for line in
        child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok)
    {
        if let Some(case) = line.strip_prefix("PASS ") {
            tell(case, true, String::new());
            cases += 1;
        } else if let Some(case) = line.strip_prefix("FAIL ") {
            let (case, why) = case.split_once(": ").unwrap_or((case, ""));
            tell(case, false, why.to_owned());
            cases += 1;
        }
    }
    match child.wait() {
        Ok(status) if cases > 0 && (status.success() || status.code() == Some(1)) => {}
        status => {
            tell("admission policy", false, format!("{SCRIPT} ended with {status:?} after {cases} cases"));
        }
    }
}
