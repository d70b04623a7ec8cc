//! What those see who look for a fault, on every node: the doctor finds nothing wrong with nodes that work, and what a
//! support bundle says it holds is in it, and no key is.

use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use selvedge::paths::Paths;
use selvedge_keys::KeyReader;
use serde_json::Value;

use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;

/// What a bundle that lacks any of these is not worth sending.
const NEEDED: [&str; 6] =
    ["agent-status.json", "tunnel-status.json", "doctor.json", "metrics.txt", "nftables.txt", "network.txt"];
/// And what there is on the node itself alone.
const LOGS: [&str; 2] = ["log-selvedge-agent-", "log-selvedge-tunnel-"];

/// Runs these checks and tells `report` of each as it begins and ends.
pub fn diagnosis(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    check("doctor before the installation", report, || before(cluster));
    check("doctor on every node", report, || on_every_node(cluster, doctor));
    check("support bundle of every node", report, || on_every_node(cluster, bundle));
}

type Look = fn(&Kubernetes, &str) -> Result<String, Failed>;

fn on_every_node(cluster: &Kubernetes, look: Look) -> Result<String, Failed> {
    let one = |node: &String| look(cluster, node).map_err(|failed| Failed(format!("{node}: {failed}")));
    let seen: Vec<String> = cluster.node_names().iter().map(one).collect::<Result<_, _>>()?;
    Ok(format!("{} nodes; {}", seen.len(), seen[0]))
}

/// Outside of containers, where the agent has to be asked for its configuration, and in the agent's own.
fn doctor(cluster: &Kubernetes, node: &str) -> Result<String, Failed> {
    let measured = judged(&cluster.doctor(node)?, true)?;
    let agent = cluster.agent_on(node)?;
    let exec = ["exec", "--namespace=selvedge-system", &agent, "--", "/selvedge"];
    let said = cluster.kubectl(&[&exec[..], &["doctor", "--output", "json"]].concat())?;
    let report = serde_json::from_str(&said).map_err(|error| Failed(error.to_string()))?;
    Ok(format!("{measured}; in the container {}", judged(&report, true)?))
}

/// Nothing is a problem on a node that works, or on one that is only to be one of ours.
fn judged(report: &Value, installed: bool) -> Result<String, Failed> {
    let findings = report["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let of = |severity: &'static str| findings.iter().filter(move |finding| finding["severity"] == severity);
    let problems: Vec<String> = of("problem").map(Value::to_string).collect();
    if !problems.is_empty() {
        return Err(Failed(problems.join("; ")));
    }
    if report["installed"] != installed {
        return Err(Failed(format!("it takes Selvedge for installed: {}", report["installed"])));
    }
    let names = |severity| {
        let mut names: Vec<&str> = of(severity).filter_map(|finding| finding["check"].as_str()).collect();
        names.dedup();
        names.join(", ")
    };
    Ok(format!("{} ok, warned of {}, skipped {}", of("ok").count(), names("warning"), names("skipped")))
}

/// Before the installation, with the cluster's ranges as it has found them.
fn before(cluster: &Kubernetes) -> Result<String, Failed> {
    let report = cluster.doctor_before().ok_or_else(|| Failed("it was not asked".into()))?;
    let measured = judged(report, false)?;
    let suggested = report["suggestedConfig"].as_str().unwrap_or_default();
    let services = cluster.world().plan().service_cidrs();
    let services = services.iter().map(|net| format!("\"{net}\"")).collect::<Vec<_>>().join(", ");
    if !suggested.contains(&format!("serviceCIDRs = [{services}]")) {
        return Err(Failed(format!("it offers {suggested:?} where Services have {services}")));
    }
    Ok(measured)
}

type Files = Vec<(String, Vec<u8>)>;

fn bundle(cluster: &Kubernetes, node: &str) -> Result<String, Failed> {
    let folder = cluster.folder().join(format!("bundle-{node}"));
    let (output, kubeconfig) =
        (folder.to_string_lossy(), cluster.kubeconfig().to_string_lossy().into_owned());
    cluster.selvedge_on(node, &["support", "bundle", "--output", &output, "--kubeconfig", &kubeconfig])?;
    let files = read(&folder).map_err(|error| Failed(error.to_string()))?;
    let keys = keys(cluster, node)?;
    complete(&files, &[&NEEDED[..], &LOGS].concat(), &keys)?;
    let exec = ["exec", "--namespace=selvedge-system", &cluster.agent_on(node)?, "--", "/selvedge"];
    let piped = cluster.kubectl_raw(&[&exec[..], &["support", "bundle", "--output", "-"]].concat())?;
    let in_container = unpack(&piped).map_err(|error| Failed(error.to_string()))?;
    complete(&in_container, &NEEDED, &keys)?;
    let bytes: usize = files.iter().map(|(_, content)| content.len()).sum();
    Ok(format!(
        "{} files, {} KiB, in the container {} files; no key",
        files.len(),
        bytes >> 10,
        in_container.len()
    ))
}

/// What is needed is there, and nobody's key.
fn complete(files: &Files, needed: &[&str], keys: &[String]) -> Result<(), Failed> {
    for needed in needed {
        if !files.iter().any(|(name, content)| name.starts_with(needed) && !content.is_empty()) {
            return Err(Failed(format!("there is no {needed}, or nothing in it")));
        }
    }
    for key in keys {
        let holds = |content: &[u8]| content.windows(key.len()).any(|window| window == key.as_bytes());
        if let Some((name, _)) = files.iter().find(|(_, content)| holds(content)) {
            return Err(Failed(format!("{name} holds a private key")));
        }
    }
    Ok(())
}

fn read(folder: &Path) -> io::Result<Files> {
    let read = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?))
    };
    std::fs::read_dir(folder)?.map(read).collect()
}

fn unpack(archive: &[u8]) -> io::Result<Files> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(archive)).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.push((name, content));
    }
    Ok(files)
}

/// The node's private keys, as its key store has them.
fn keys(cluster: &Kubernetes, node: &str) -> Result<Vec<String>, Failed> {
    let space = cluster.node_space(node).ok_or_else(|| Failed(format!("no node {node}")))?;
    let keys = space.run(|| {
        let store = KeyReader::open(Paths::default().keys()).map_err(|error| error.to_string())?;
        let epochs = store.epochs().map_err(|error| error.to_string())?;
        let load = |epoch: &u64| store.load(*epoch).map_err(|error| error.to_string());
        let key = |epoch: &u64| load(epoch).map(|stored| STANDARD.encode(stored.private_key.as_bytes()));
        epochs.iter().map(key).collect::<Result<Vec<_>, String>>()
    })??;
    if keys.is_empty() { Err(Failed("it has no keys".into())) } else { Ok(keys) }
}
