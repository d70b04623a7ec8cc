//! Taking the trust from keys, on every node at once, and letting their node in again.

use serde_json::json;

use super::super::{Exit, Failure, Output, table};
use super::fleet::{json, short, user};
use crate::cluster::keys::revocation;
use crate::cluster::{Access, connect};
use crate::resource::KeyRevocation;
use crate::resource::key_revocation::Revocation;
use selvedge_keys::PublicKey;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge keys revoke --node worker-1 --reason 'laptop stolen'
  selvedge keys revoke --node worker-1 --reason 'laptop stolen' --yes
  selvedge keys revoke --node gone-3 --public-key BASE64 --yes

For an emergency: every node that reaches the API server drops the keys of this
node at once, with their sessions, whether or not the node itself can be
reached. They stay revoked for ever. The Node object is barred too, whatever
keys it publishes, until `selvedge keys readmit`. All traffic of its pods to
and from other nodes stops. To replace a key without that, rotate it.

Exit codes: 0 done, or printed what it would do; 1 the API server refused, or
the Node does not exist; 2 an option is wrong; 4 the API server does not answer.")]
pub(super) struct RevokeArgs {
    /// Name of the Node whose keys are revoked.
    #[arg(long, value_name = "NAME")]
    node: String,
    /// These keys of it, also if the Node does not exist any more; by default all that it publishes. May be repeated.
    #[arg(long, value_name = "BASE64")]
    public_key: Vec<PublicKey>,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Do it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    access: Access,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge keys readmit --node worker-1
  selvedge keys readmit --node worker-1 --yes

The node makes new keys by itself, and peers believe those; the old ones stay
revoked. Make sure first that nobody else controls the node: whoever does gets
the new keys too.

Exit codes: 0 done, or printed what it would do; 1 the API server refused, or
the node is not barred; 4 the API server does not answer.")]
pub(super) struct ReadmitArgs {
    /// Name of the Node.
    #[arg(long, value_name = "NAME")]
    node: String,
    /// Do it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    access: Access,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the answer is there, 1 the API server refused, 4 it does not answer.")]
pub(super) struct RevocationsArgs {
    #[command(flatten)]
    access: Access,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn revoke(args: &RevokeArgs) -> Result<Exit, Failure> {
    short(&args.reason)?;
    let RevokeArgs { node, .. } = args;
    let (client, _) = connect(&args.access).await?;
    let published = revocation::published(&client, node).await?;
    let (uid, keys) = match (published, &args.public_key[..]) {
        (None, []) => {
            let remedy = "give its keys with --public-key; `selvedge audit show` on another node has them";
            return Err(anyhow::anyhow!("Node {node} does not exist: {remedy}").into());
        }
        (None, keys) => (String::new(), keys.to_vec()),
        (Some(it), []) if it.keys.is_empty() => {
            return Err(
                anyhow::anyhow!("Node {node} publishes no key; give its keys with --public-key").into()
            );
        }
        (Some(it), []) => (it.uid, it.keys.into_iter().collect()),
        (Some(it), keys) => (it.uid, keys.to_vec()),
    };
    let spec = Revocation {
        node: node.clone(),
        node_uid: uid,
        public_keys: keys.iter().map(ToString::to_string).collect(),
        revoked_by: user(&client).await?,
        reason: args.reason.clone(),
        readmitted_by: None,
    };
    if !args.yes {
        let text = match args.output {
            Output::Json => json(&spec)?,
            Output::Table => plan(&spec),
        };
        super::super::print(&text)?;
        return Ok(Exit::Ok);
    }
    let name = revocation::revoke(&client, &spec).await?;
    let text = match args.output {
        Output::Json => json(&KeyRevocation::new(&name, spec))?,
        Output::Table => format!(
            "the keys of node {node} are revoked: {name} ({})\nto let it in again, with new keys: selvedge keys readmit \
             --node {node}\n",
            keys.len()
        ),
    };
    super::super::print(&table::visible(&text))?;
    Ok(Exit::Ok)
}

fn plan(spec: &Revocation) -> String {
    let Revocation { node, node_uid, public_keys, .. } = spec;
    let mut text =
        format!("Revoking the keys of node {node}\nwould drop, on every node, at once and for ever,\n");
    for key in public_keys {
        text += &format!("  {key}\n");
    }
    text += "with their sessions. No packet passes between its pods and other nodes then.\n";
    if node_uid.is_empty() {
        text += "The Node does not exist, so only the keys are revoked.\n";
    } else {
        text += "The Node is barred, whatever keys it publishes, until it is readmitted.\n";
    }
    table::visible(&(text + "Run it with --yes.\n"))
}

pub(super) async fn readmit(args: &ReadmitArgs) -> Result<Exit, Failure> {
    let ReadmitArgs { node, .. } = args;
    let (client, _) = connect(&args.access).await?;
    let bars = |object: &KeyRevocation| object.spec.node == *node && object.spec.readmitted_by.is_none();
    let barring: Vec<KeyRevocation> = revocation::list(&client).await?.into_iter().filter(bars).collect();
    if barring.is_empty() {
        return Err(
            anyhow::anyhow!("node {node} is not barred; `selvedge keys revocations` shows who is").into()
        );
    }
    if !args.yes {
        let text = match args.output {
            Output::Json => json(&barring)?,
            Output::Table => {
                rows(&barring)
                    + "Readmitting it would let it make new keys, which all nodes believe. Run it with --yes.\n"
            }
        };
        super::super::print(&text)?;
        return Ok(Exit::Ok);
    }
    let names = revocation::readmit(&client, node, &user(&client).await?).await?;
    let text = match args.output {
        Output::Json => json(&json!({"node": node, "revocations": names}))?,
        Output::Table => {
            format!("node {node} is readmitted: it makes new keys, and its old ones stay revoked\n")
        }
    };
    super::super::print(&table::visible(&text))?;
    Ok(Exit::Ok)
}

pub(super) async fn revocations(args: &RevocationsArgs) -> Result<Exit, Failure> {
    let (client, _) = connect(&args.access).await?;
    let objects = revocation::list(&client).await?;
    let text = match args.output {
        Output::Json => json(&objects)?,
        Output::Table if objects.is_empty() => "no key is revoked\n".to_owned(),
        Output::Table => rows(&objects),
    };
    super::super::print(&text)?;
    Ok(Exit::Ok)
}

fn rows(objects: &[KeyRevocation]) -> String {
    let row = |object: &KeyRevocation| {
        let Revocation { node, public_keys, revoked_by, reason, readmitted_by, .. } = &object.spec;
        let state = match readmitted_by {
            Some(by) => format!("readmitted by {by}"),
            None => "barred".to_owned(),
        };
        let first = public_keys.first().map(|key| key.chars().take(10).collect::<String>() + "...");
        let more = public_keys.len().saturating_sub(1);
        let keys = first.unwrap_or_default() + &if more > 0 { format!(" +{more}") } else { String::new() };
        [node, &keys, revoked_by, reason, &state].map(|cell| table::visible(cell)).to_vec()
    };
    let rows: Vec<_> = objects.iter().map(row).collect();
    table::render(&["NODE", "KEYS", "REVOKED BY", "REASON", "NODE IS"], &rows, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit_and_foreign_text_is_harmless() {
        let key = PublicKey::from_bytes([7; 32]).to_string();
        let spec = Revocation {
            node: "ip-10-0-131-7.eu-central-1.compute.internal".into(),
            node_uid: "u".into(),
            public_keys: vec![key; 8],
            revoked_by: "system:serviceaccount:security:incident-response".into(),
            reason: "stolen\u{1b}[2J".into(),
            readmitted_by: None,
        };
        for text in [plan(&spec), rows(&[KeyRevocation::new("revoked-1", spec.clone())])] {
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
        let readmitted = Revocation { readmitted_by: Some("bob".into()), ..spec };
        assert!(rows(&[KeyRevocation::new("r", readmitted)]).contains("readmitted"));
    }
}
