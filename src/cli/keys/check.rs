//! `selvedge keys check`: what is wrong with the keys of the cluster, and with the files of this node.

use anyhow::anyhow;
use jiff::Timestamp;
use serde_json::json;

use super::super::{Exit, Failure, Output, block_on, doctor, print};
use crate::cluster::{Access, connect};
use crate::doctor::finding::Severity;
use crate::duration;
use crate::keyring::check::{self, NodeFinding};
use crate::keyring::inventory::Inventory;
use crate::keyring::local::Facts;
use crate::keyring::policy::{self, Given, KeyringPolicy};
use crate::keyring::publication;
use crate::paths::Paths;

/// Options of `selvedge keys check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge keys check
  selvedge keys check --kubeconfig /etc/kubernetes/admin.conf
  selvedge keys check --local
  selvedge keys check --output json | jq '.findings[] | select(.severity == \"problem\")'

In the cluster, through the Kubernetes API: a key that two Nodes publish, a key
that is older than the cryptoperiod (a warning) or than 365 days (a problem), a
key that was made in the future, a member without a key, annotations that cannot
be read, a next key that has been published for more than a day. The clock is
that of this machine. On a node with a key store: owner and mode of the store
and of the audit log and of all their files, and whether they are intact. It
changes nothing.

Exit codes: 0 no findings, 1 the API server refuses, or the key store is missing
or unreadable, 2 an option, the kubeconfig or the configuration is wrong, 3
findings, 4 the API server does not answer.")]
pub(super) struct Args {
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    /// Look at the files of this node alone, and ask no API server.
    #[arg(long, conflicts_with_all = ["kubeconfig", "context"])]
    local: bool,
    #[command(flatten)]
    policy: Given,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let (paths, now) = (Paths::from_env(), Timestamp::now());
    let has_store = paths.keys().symlink_metadata().is_ok();
    let (policy, mut findings) = if args.local {
        if !has_store {
            let folder = paths.keys();
            return Err(anyhow!("key store {} does not exist: run this on a node", folder.display()).into());
        }
        let policy = policy::of_file(&args.policy, &paths.config);
        (policy.map_err(|error| Failure::new(Exit::Usage, anyhow!(error)))?, Vec::new())
    } else {
        block_on(cluster(args, &paths, now))?
    };
    if has_store {
        let facts = Facts::gather(&paths);
        if args.local && facts.is_hidden() {
            return Err(
                anyhow!("cannot read the key store {}: run it as root", paths.keys().display()).into()
            );
        }
        findings.splice(0..0, facts.check(&policy, now).into_iter().map(NodeFinding::from));
    }
    print(&match args.output {
        Output::Json => format!("{:#}\n", json!({"at": now, "policy": policy, "findings": findings})),
        Output::Table => render(&policy, &findings),
    })?;
    Ok(if check::is_clean(&findings) { Exit::Ok } else { Exit::Findings })
}

async fn cluster(
    args: &Args,
    paths: &Paths,
    now: Timestamp,
) -> Result<(KeyringPolicy, Vec<NodeFinding>), Failure> {
    let (client, _) = connect(&args.access).await?;
    let policy = policy::of_cluster(&client, &args.policy, &paths.config).await?;
    let publications = publication::fetch(&client).await?;
    let inventory = Inventory::new(&publications, policy, now);
    let findings = check::check(&publications, &inventory);
    Ok((inventory.policy, findings))
}

fn render(policy: &KeyringPolicy, findings: &[NodeFinding]) -> String {
    let mut text: String = findings.iter().map(|found| doctor::paragraph(&found.finding)).collect();
    let count = |severity| findings.iter().filter(|found| found.finding.severity == severity).count();
    let (problems, warnings) = (count(Severity::Problem), count(Severity::Warning));
    let source = format!("cryptoperiod {}, of {}", duration::show(policy.cryptoperiod), policy.source);
    text += &format!("\n{}\n", super::super::table::wrap(&source, 80).join("\n"));
    text + &format!(
        "problems: {problems}, warnings: {warnings}, not looked at: {}\n",
        count(Severity::Skipped)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::doctor::finding::Finding;

    #[test]
    fn the_table_fits_80_columns_and_json_has_all_nodes() {
        let policy = KeyringPolicy {
            cryptoperiod: std::time::Duration::from_secs(90 * 86_400),
            custodian: String::new(),
            source: "ConfigMap selvedge-config-0123456789".into(),
        };
        let finding = Finding::problem("duplicate-key", "key 0123456789abcdef ".repeat(8), "find out which");
        let findings = [
            NodeFinding { finding, nodes: vec!["a".into(), "b".into()] },
            Finding::skipped("key-store", "run it as root").into(),
        ];
        let text = render(&policy, &findings);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "PROBLEM  duplicate-key   key 0",
            "problems: 1, warnings: 0, not looked at: 1\n",
            "cryptoperiod 90d, of ConfigMap",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        let value = serde_json::to_value(&findings).unwrap();
        assert_eq!((&value[0]["check"], &value[0]["nodes"]), (&json!("duplicate-key"), &json!(["a", "b"])));
        assert!(!check::is_clean(&findings) && check::is_clean(&findings[1..]));
    }

    #[test]
    fn local_asks_no_api_server() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let parse = |words: &[&str]| Line::try_parse_from(["x"].iter().chain(words)).map(|line| line.args);
        assert!(parse(&["--local", "--cryptoperiod", "30d"]).unwrap().local);
        assert!(
            parse(&["--local", "--kubeconfig", "x"]).is_err()
                && parse(&["--local", "--context", "x"]).is_err()
        );
    }
}
