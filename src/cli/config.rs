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

/// The values in use, a key a line, by key.
fn table(file: &Path, config: &Config) -> String {
    let mut text = format!("{} is valid; in use are\n", file.display());
    for (key, value) in values(config) {
        text.push_str(&format!("  {key:<22} {value}\n"));
    }
    text
}

/// Every key that has a value, with its table in front, and the value as people write it.
pub(super) fn values(config: &Config) -> Vec<(String, String)> {
    let value = serde_json::to_value(config).expect("a configuration has only text keys");
    let mut lines = Vec::new();
    flatten("", &value, &mut lines);
    lines
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, output: Output) -> Result<Exit, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let check = Check { file: Some(file), output, overrides: Overrides::default() };
        run(&Args { action: Action::Check(Box::new(check)) })
    }

    const GOOD: &str =
        "clusterPodCIDRs = [\"10.244.0.0/16\"]\nserviceCIDRs = [\"10.96.0.0/12\"]\nnodeName = \"n1\"\n";

    #[test]
    fn a_good_file_ends_with_0_and_a_bad_one_with_2() {
        for output in [Output::Table, Output::Json] {
            assert!(matches!(check(GOOD, output), Ok(Exit::Ok)));
        }
        assert!(matches!(check("nonsense = 1\n", Output::Json), Ok(Exit::Usage)));
        let failure = check("nonsense = 1\n", Output::Table).unwrap_err();
        assert!(matches!(failure.exit, Exit::Usage));
        assert!(failure.to_string().contains("line 1: nonsense: unknown key"), "{failure}");
    }

    #[test]
    fn the_table_shows_what_is_in_use_in_80_columns() {
        let config = Config::parse(Path::new("x"), GOOD, &Overrides::default()).unwrap();
        let table = table(Path::new("x"), &config);
        assert!(table.contains("  clusterPodCIDRs        10.244.0.0/16\n"), "{table}");
        assert!(table.contains("  agent.metricsAddress   127.0.0.1:51831\n"), "{table}");
        assert!(table.contains("  trustedSources         none\n"), "{table}");
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    }

    #[test]
    fn the_json_report_lists_the_problems() {
        let result = Config::parse(Path::new("x"), "nonsense = 1\n", &Overrides::default());
        let report = report(Path::new("x"), &result);
        assert_eq!((&report["valid"], &report["problems"][0]["line"]), (&json!(false), &json!(1)));
        let result = Config::parse(Path::new("x"), GOOD, &Overrides::default());
        assert_eq!(super::report(Path::new("x"), &result)["config"]["nodeName"], "n1");
    }
}
