//! `selvedge config`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Exit, Failure, Output};
use crate::config::{Config, ConfigError, Overrides};
use crate::paths::Paths;

/// Options of `selvedge config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check the file, flags and environment as the agent would read them; exit code 2 when something is wrong.
    Check(Box<Check>),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The file; /etc/selvedge/config.toml or SELVEDGE_CONFIG by default.
    file: Option<PathBuf>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    overrides: Overrides,
}

#[expect(clippy::print_stdout, reason = "the result is what was asked for")]
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let Action::Check(check) = &args.action;
    let file = check.file.clone().unwrap_or_else(|| Paths::from_env().config);
    let result = Config::load(&file, &check.overrides);
    if check.output == Output::Json {
        println!("{:#}", report(&file, &result));
        return Ok(if result.is_ok() { Exit::Ok } else { Exit::Usage });
    }
    let config = result.map_err(|error| Failure::new(Exit::Usage, error))?;
    print!("{}", table(&file, &config));
    Ok(Exit::Ok)
}

fn report(file: &Path, result: &Result<Config, ConfigError>) -> serde_json::Value {
    match result {
        Ok(config) => json!({ "file": file, "valid": true, "config": config }),
        Err(error) => {
            json!({ "file": file, "valid": false, "error": error.to_string(), "problems": error.problems() })
        }
    }
}

/// The values in use, a key a line, in the order of the file.
fn table(file: &Path, config: &Config) -> String {
    let mut text = format!("{} is valid; in use are\n", file.display());
    let value = serde_json::to_value(config).expect("a configuration has only text keys");
    let mut lines = Vec::new();
    flatten("", &value, &mut lines);
    for (key, value) in lines {
        text.push_str(&format!("  {key:<22} {value}\n"));
    }
    text
}

fn flatten(prefix: &str, value: &serde_json::Value, lines: &mut Vec<(String, String)>) {
    let serde_json::Value::Object(object) = value else {
        return lines.push((prefix.to_owned(), plain(value)));
    };
    for (key, value) in object {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        flatten(&key, value, lines);
    }
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) if items.is_empty() => "none".into(),
        serde_json::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
