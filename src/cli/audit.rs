//! `selvedge audit`: the record of what happened to the keys of this node.

use std::path::PathBuf;

use selvedge_keys::audit::{AuditError, AuditReader, Entry, Head, Recorded, Verified, VerifyError, verify};
use serde_json::{Map, Value};

use super::{Exit, Failure, Output};
use crate::paths::Paths;

/// Fields of a line that are shown in columns of their own, or not at all.
const COLUMNS: [&str; 4] = ["number", "at", "event", "previous"];
/// Most characters of the fields of an event in the table.
const DETAILS: usize = 80 - 2;

/// Options of `selvedge audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge audit show
  selvedge audit show --last 200 --output json | jq 'select(.event == \"keyPromoted\")'
  selvedge audit verify
  selvedge audit verify --dir ./copy --anchor '118 sha256:9f86d081884c7d65...'")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the newest entries.
    Show(ShowArgs),
    /// Find lines that were changed, removed, moved or cut off.
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the entries are there, 1 the log cannot be read.")]
struct ShowArgs {
    /// The log; that of this node by default.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Number of entries.
    #[arg(long, value_name = "N", default_value = "20")]
    last: usize,
    /// Form of the answer. JSON is one object a line, as in the log.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Without an anchor, lines that were cut off at the end, and a log that was written
again as a whole, are not found. Keep the head that this command prints in a
place that nobody who can write to the node can change, and give it as the
anchor the next time.

Exit codes: 0 the log is as it was written, 1 it cannot be read, 2 an option is
wrong, 3 it was tampered with or damaged.")]
struct VerifyArgs {
    /// The log; that of this node by default.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// A head that an earlier verification printed.
    #[arg(long, value_name = "HEAD")]
    anchor: Option<Head>,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.action {
        Action::Show(args) => show(args),
        Action::Verify(args) => run_verify(args),
    }
}

fn folder(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(|| Paths::from_env().audit())
}

fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    let entries = AuditReader::open(folder(args.dir.as_ref()))
        .and_then(|reader| reader.newest(args.last))
        .map_err(|error| cannot(&error))?;
    let mut text = String::new();
    for entry in entries {
        let entry = entry.map_err(|error| cannot(&error))?;
        let fields = fields(&entry);
        text += &match args.output {
            Output::Json => Value::Object(fields).to_string() + "\n",
            Output::Table => row(&entry, &fields),
        };
    }
    super::print(&text)?;
    Ok(Exit::Ok)
}

fn cannot(error: &AuditError) -> Failure {
    Failure::new(Exit::Failed, anyhow::anyhow!("cannot read the audit log: {error}"))
}

/// The entry as in the log, without the hash.
fn fields(entry: &Entry) -> Map<String, Value> {
    let event = match &entry.event {
        Recorded::Known(event) => serde_json::to_value(event).unwrap_or_default(),
        Recorded::Unknown { line, .. } => serde_json::from_str(line).unwrap_or_default(),
    };
    let mut fields = Map::new();
    fields.insert("number".into(), entry.number.into());
    fields.insert("at".into(), entry.at.to_string().into());
    if let Value::Object(event) = event {
        fields.extend(event.into_iter().filter(|(name, _)| name != "previous"));
    }
    fields
}

/// Number, time and event, and below them its fields.
fn row(entry: &Entry, fields: &Map<String, Value>) -> String {
    let event = fields.get("event").and_then(Value::as_str).unwrap_or("?");
    let mut text = format!("{:>6}  {:.0}  {event}\n", entry.number, entry.at);
    let details = fields.iter().filter(|(name, _)| !COLUMNS.contains(&name.as_str()));
    for (name, value) in details {
        let value = match value {
            Value::String(text) => text.escape_debug().to_string(),
            value => value.to_string(),
        };
        let detail = format!("{name} {value}");
        let cut: String = detail.chars().take(DETAILS - 8).collect();
        text += &format!("        {cut}{}\n", if cut.len() < detail.len() { "…" } else { "" });
    }
    text
}

fn run_verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let verified = verify(folder(args.dir.as_ref()), args.anchor.as_ref()).map_err(|error| {
        let exit = if let VerifyError::Read { .. } = error { Exit::Failed } else { Exit::Findings };
        Failure::new(exit, anyhow::anyhow!("the audit log does not pass verification: {error}"))
    })?;
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&verified).map_err(anyhow::Error::new)? + "\n",
        Output::Table => report(&verified),
    };
    super::print(&text)?;
    Ok(Exit::Ok)
}

fn report(verified: &Verified) -> String {
    let Verified { first, head, entries, anchored, repaired, damaged, torn_tail } = verified;
    let mut text = format!(
        "entries   {entries}, from number {first}\nhead, to give as --anchor the next time:\n{head}\n"
    );
    text += &match anchored {
        Some(number) => format!("anchor    vouches up to number {number}\n"),
        None => "anchor    none given: lines cut off at the end cannot be found\n".to_owned(),
    };
    if *repaired > 0 {
        text += &format!("repaired  {repaired} last lines that a crash had cut\n");
    }
    if *damaged > 0 {
        text += &format!("damaged   {damaged} breaks recorded, in files that are pruned since\n");
    }
    if *torn_tail {
        text += "tail      not complete: a write is under way, or was cut off\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use selvedge_keys::audit::{AuditLog, Event, Limits};

    use super::*;

    #[test]
    fn the_table_fits_80_columns_and_the_report_names_head_and_anchor() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("audit");
        let mut log = AuditLog::open(&dir, Limits::default(), Timestamp::UNIX_EPOCH).unwrap();
        let reason = "x".repeat(200) + "\n";
        let event =
            Event::RotationAborted { id: "r-1".into(), by: "alice".into(), reason: reason.as_str().into() };
        let head = log.append(&event, Timestamp::UNIX_EPOCH).unwrap();
        let entry = log.reader().newest(1).unwrap().remove(0).unwrap();
        let text = row(&entry, &fields(&entry));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("     1  1970-01-01T00:00:00Z  rotationAborted"), "{text}");
        assert!(text.contains("id r-1"), "{text}");
        let verified = verify(&dir, Some(&head)).unwrap();
        let text = report(&verified);
        assert!(text.contains(&head.to_string()) && text.contains("vouches up to number 1"), "{text}");
        assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
    }
}
