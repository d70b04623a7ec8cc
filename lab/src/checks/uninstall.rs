//! `selvedge uninstall` on the real Kubernetes, at the very end: nothing of Selvedge is left in its API nor on its nodes.

use super::{Failed, Report, outcome};
use crate::kubernetes::Kubernetes;

/// Takes Selvedge off the cluster, and looks whether anything is left.
pub fn uninstall(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    let mut check = |name: &str, body: &dyn Fn() -> Result<String, Failed>| {
        report(Report::Begun(name));
        report(Report::Ended(&outcome(name, body)));
    };
    check("uninstall", &|| {
        let said = cluster.selvedge(&["uninstall", "--yes", "--timeout", "3m"])?;
        Ok(said.lines().last().unwrap_or_default().to_owned())
    });
    check("nothing is left on the nodes", &|| {
        let nodes = cluster.node_names();
        // It ends with 3 where there is anything to remove.
        let looks: Result<Vec<_>, _> =
            nodes.iter().map(|node| cluster.selvedge_on(node, &["uninstall", "--node"])).collect();
        looks?;
        Ok(format!("{} nodes", nodes.len()))
    });
    check("nothing is left in the API", &|| {
        let all = "namespaces,nodes,clusterroles,clusterrolebindings,roles,rolebindings,validatingadmissionpolicies,\
                   validatingadmissionpolicybindings";
        let left = cluster.kubectl(&["get", all, "--all-namespaces", "--output=yaml"])?;
        let ours = |line: &&str| line.contains("selvedge.dev/") || line.contains("name: selvedge-");
        let found: Vec<&str> = left.lines().filter(ours).map(str::trim).collect();
        if found.is_empty() { Ok(String::new()) } else { Err(Failed(found.join("; "))) }
    });
}
