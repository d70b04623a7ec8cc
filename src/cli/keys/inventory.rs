//! `selvedge keys inventory`: every trusted key of the cluster, for an auditor.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::super::{Exit, Failure, block_on, print, table};
use crate::cluster::{Access, connect};
use crate::duration;
use crate::keyring::inventory::{ALGORITHM, Inventory, STRENGTH_BITS, TrustedKey};
use crate::keyring::policy::{self, Given};
use crate::keyring::publication;
use crate::paths::Paths;

/// Most characters of a Node's name in the table.
const NODE: usize = 20;
const WIDTH: usize = 80;

/// Options of `selvedge keys inventory`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge keys inventory
  selvedge keys inventory --output csv >keys.csv
  selvedge keys inventory --output json | jq '.keys[] | select(.state == \"next\")'

A row for each key that a Node publishes: algorithm, strength, state, time that it
was made, age, cryptoperiod, expiry and custodian. The table has what all keys
share above the rows. The states are: current, lane (of a further lane), next and
next lane (a rotation runs). The time of a next key is not published.

A fingerprint is the first 16 hexadecimal digits of SHA-256 of the key's bytes:
  echo PUBLIC-KEY | base64 -d | sha256sum | cut -c-16

Cryptoperiod and custodian are those of the agents' configuration ([keys] in the
ConfigMap), unless an option says otherwise. It reads the metadata of all Nodes
through the Kubernetes API, in pages.

Exit codes: 0 the list is complete, 1 the API server refuses, 2 an option, the
kubeconfig or the configuration is wrong, 3 the annotations of some Nodes cannot
be read, and they are listed with the reason, 4 the API server does not answer.")]
pub(super) struct Args {
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Form,
    #[command(flatten)]
    policy: Given,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A table for people, at most 80 columns wide.
    Table,
    /// JSON for programs.
    Json,
    /// Comma-separated values with a header, for spreadsheets (RFC 4180).
    Csv,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let inventory = block_on(fetch(args))?;
    let text = match args.output {
        Form::Table => render(&inventory),
        Form::Json => serde_json::to_string_pretty(&inventory).map_err(anyhow::Error::new)? + "\n",
        Form::Csv => csv(&inventory),
    };
    print(&text)?;
    Ok(if inventory.unreadable.is_empty() { Exit::Ok } else { Exit::Findings })
}

async fn fetch(args: &Args) -> Result<Inventory, Failure> {
    let (client, _) = connect(&args.access).await?;
    let policy = policy::of_cluster(&client, &args.policy, &Paths::from_env().config).await?;
    let publications = publication::fetch(&client).await?;
    Ok(Inventory::new(&publications, policy, Timestamp::now()))
}

fn render(inventory: &Inventory) -> String {
    let policy = &inventory.policy;
    let custodian = if policy.custodian.is_empty() { "not configured" } else { &policy.custodian };
    let mut text = format!("algorithm     {ALGORITHM}, {STRENGTH_BITS} bits of strength\n");
    text += &format!("cryptoperiod  {}\n", duration::show(policy.cryptoperiod));
    text += &field("custodian     ", custodian);
    text += &field("policy from   ", &policy.source);
    let rows: Vec<Vec<String>> = inventory.keys.iter().map(row).collect();
    text += &table::render(&["NODE", "STATE", "FINGERPRINT", "CREATED", "AGE", "EXPIRES"], &rows, &[4]);
    for unreadable in &inventory.unreadable {
        let sentence = format!("unreadable: {}: {}", unreadable.node, unreadable.problems.join("; "));
        text += &field("", &sentence);
    }
    if !inventory.without_key.is_empty() {
        text += &field("", &format!("without a key: {}", inventory.without_key.join(", ")));
    }
    text
}

/// `label` and what is about it, on as many lines as it needs.
fn field(label: &str, text: &str) -> String {
    let indent = if label.is_empty() { 2 } else { label.len() };
    let mut lines = table::wrap(&table::visible(text), WIDTH - indent).into_iter();
    let first = format!("{label}{}\n", lines.next().unwrap_or_default());
    first + &lines.map(|line| format!("{}{line}\n", " ".repeat(indent))).collect::<String>()
}

fn row(key: &TrustedKey) -> Vec<String> {
    vec![
        middle(&key.node, NODE),
        key.state.to_string(),
        key.fingerprint.clone(),
        key.created.map_or_else(unknown, day),
        key.age_seconds.map_or_else(unknown, age),
        key.expires.map_or_else(unknown, day),
    ]
}

fn unknown() -> String {
    "-".into()
}

fn day(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).date().to_string()
}

fn age(seconds: i64) -> String {
    let age = SignedDuration::from_secs(seconds);
    match age.as_hours() {
        0..48 => format!("{}h", age.as_hours()),
        hours => format!("{}d", hours / 24),
    }
}

/// Beginning and end of a long name: names of one pool differ at their end.
fn middle(name: &str, most: usize) -> String {
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= most {
        return name.to_owned();
    }
    let kept = most - 1;
    let (first, last) = (&characters[..kept / 2], &characters[characters.len() - kept.div_ceil(2)..]);
    first.iter().chain(&['…']).chain(last).collect()
}

const COLUMNS: [&str; 12] = [
    "node",
    "state",
    "algorithm",
    "strengthBits",
    "fingerprint",
    "epoch",
    "created",
    "ageDays",
    "cryptoperiod",
    "expires",
    "custodian",
    "problem",
];

/// A line for each key, and one for each Node that cannot be read.
fn csv(inventory: &Inventory) -> String {
    let mut text = COLUMNS.join(",") + "\n";
    for key in &inventory.keys {
        let time = |time: Option<Timestamp>| time.map(|time| format!("{time:.0}")).unwrap_or_default();
        let age = key.age_seconds.map(|seconds| (seconds / 86_400).to_string()).unwrap_or_default();
        text += &line([
            key.node.clone(),
            key.state.to_string(),
            key.algorithm.to_owned(),
            key.strength_bits.to_string(),
            key.fingerprint.clone(),
            key.epoch.to_string(),
            time(key.created),
            age,
            duration::show(key.cryptoperiod),
            time(key.expires),
            key.custodian.clone(),
            String::new(),
        ]);
    }
    for unreadable in &inventory.unreadable {
        let mut values = [const { String::new() }; COLUMNS.len()];
        values[0].clone_from(&unreadable.node);
        values[COLUMNS.len() - 1] = unreadable.problems.join("; ");
        text += &line(values);
    }
    text
}

fn line(values: [String; COLUMNS.len()]) -> String {
    values.map(|value| quoted(&value)).join(",") + "\n"
}

fn quoted(value: &str) -> String {
    match value.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use selvedge_keys::PublicKey;

    use super::*;
    use crate::keyring::inventory::{TrustedState, Unreadable};
    use crate::keyring::policy::KeyringPolicy;

    fn inventory() -> Inventory {
        let policy = KeyringPolicy {
            cryptoperiod: std::time::Duration::from_secs(365 * 86_400),
            custodian: "Platform \"Keys\", on call: +49 30 1234567, platform-security@a-long-domain.example"
                .into(),
            source: "ConfigMap selvedge-config-0123456789".into(),
        };
        let key = |node: &str, state, created: Option<&str>| {
            let public_key = PublicKey::from_bytes([7; 32]);
            let created: Option<Timestamp> = created.map(|created| created.parse().unwrap());
            TrustedKey {
                node: node.into(),
                state,
                algorithm: ALGORITHM,
                strength_bits: STRENGTH_BITS,
                fingerprint: public_key.fingerprint(),
                public_key,
                epoch: 3,
                created,
                age_seconds: created.map(|_| 2000 * 86_400),
                cryptoperiod: policy.cryptoperiod,
                expires: created.map(|created| created + policy.cryptoperiod),
                custodian: policy.custodian.clone(),
            }
        };
        Inventory {
            at: Timestamp::UNIX_EPOCH,
            keys: vec![
                key("gke-cluster-default-pool-1a2b3c4d-x7k2", TrustedState::NextLane, None),
                key("node-1", TrustedState::Current, Some("2026-01-02T03:04:05.6Z")),
            ],
            unreadable: vec![Unreadable {
                node: "node-2".into(),
                problems: vec![
                    format!("selvedge.dev/key-epoch: {}", "x ".repeat(60)),
                    "another\u{1b}".into(),
                ],
            }],
            without_key: vec!["virtual-1".into()],
            policy,
        }
    }

    #[test]
    fn the_table_fits_80_columns_and_cuts_only_names() {
        let text = render(&inventory());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "algorithm     X25519 (RFC 7748), 128 bits of strength\n",
            "cryptoperiod  365d\n",
            "policy from   ConfigMap selvedge-config-0123456789\n",
            "gke-clust…b3c4d-x7k2",
            "  2026-01-02  2000d  2027-01-02\n",
            "next lane",
            "unreadable: node-2: selvedge.dev/key-epoch: x x",
            "another\\u{1b}",
            "without a key: virtual-1\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(text.contains(&format!("\n{:<20}  current    ", "node-1")), "{text}");
        assert!(text.contains(&PublicKey::from_bytes([7; 32]).fingerprint()), "{text}");
    }

    #[test]
    fn csv_quotes_what_needs_it_and_every_line_has_all_columns() {
        let text = csv(&inventory());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0], COLUMNS.join(","));
        let fingerprint = PublicKey::from_bytes([7; 32]).fingerprint();
        let start = format!(
            "node-1,current,X25519 (RFC 7748),128,{fingerprint},3,2026-01-02T03:04:05Z,2000,365d,2027-01-02T03:04:05Z,"
        );
        assert!(lines[2].starts_with(&start), "{text}");
        assert!(lines[2].ends_with(
            ",\"Platform \"\"Keys\"\", on call: +49 30 1234567, platform-security@a-long-domain.example\","
        ));
        assert!(lines[3].starts_with("node-2,,,,,,,,,,,selvedge.dev/key-epoch: x"), "{text}");
        assert_eq!(quoted("a\r\nb"), "\"a\r\nb\"");
    }

    #[test]
    fn options_are_read() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let parse = |words: &[&str]| Line::try_parse_from(["x"].iter().chain(words)).map(|line| line.args);
        let args =
            parse(&["-o", "csv", "--cryptoperiod", "30d", "--custodian", "Ops", "--context", "c"]).unwrap();
        assert_eq!((args.output, args.access.context.as_deref()), (Form::Csv, Some("c")));
        assert_eq!(args.policy.cryptoperiod, Some(std::time::Duration::from_secs(30 * 86_400)));
        assert!(parse(&["--cryptoperiod", "30 days"]).is_err() && parse(&["-o", "xml"]).is_err());
    }
}
