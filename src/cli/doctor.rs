//! `selvedge doctor`: what stands in the way of Selvedge on this node.

use std::path::PathBuf;
use std::time::Duration;

use super::{Exit, Failure, Output, table};
use crate::config::{Config, Overrides};
use crate::doctor::cluster::{AGENT, Access};
use crate::doctor::finding::{Finding, Report, Severity};
use crate::doctor::host::Host;
use crate::doctor::{Doctor, Source};
use crate::local::{Client, ClientError};
use crate::paths::Paths;

/// The agent's own configuration costs it no work.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of `selvedge doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge doctor
  selvedge doctor --kubeconfig /etc/kubernetes/admin.conf --as-agent
  selvedge doctor --output json | jq '.findings[] | select(.severity == \"problem\")'

Run it as root. It changes nothing on the node, and runs no other program but one that the kubeconfig names to get
credentials by (exec). What the kernel can do is tried in a network namespace that is gone afterwards; the kernel
may load modules for that, as it will for Selvedge.

Exit codes: 0 no problem, 3 there is one.")]
pub(super) struct Args {
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    /// Ask the API server for the rights of the agent, by impersonating it.
    #[arg(long, value_name = "USER", num_args = 0..=1, require_equals = true, default_missing_value = AGENT,
        value_parser = user, conflicts_with = "offline")]
    as_agent: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// A name that a header can carry.
fn user(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && http::HeaderValue::from_str(text).is_ok();
    fits.then(|| text.to_owned()).ok_or_else(|| "it is no name of a user".into())
}

/// Where to look: options of the verbs that look at a whole node.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The configuration file; /etc/selvedge/config.toml or SELVEDGE_CONFIG by default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node's root is, for a container with the node's files.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Leave the cluster out.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    overrides: Overrides,
}

#[expect(clippy::print_stdout, reason = "this is the answer")]
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    // Fails only if a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let report = super::block_on(async { args.place.doctor(args.as_agent.clone()).await.examine().await });
    match args.output {
        Output::Json => {
            println!("{}", serde_json::to_string_pretty(&report).map_err(anyhow::Error::new)?);
        }
        Output::Table => print!("{}", render(&report)),
    }
    Ok(if report.has_problem() { Exit::Findings } else { Exit::Ok })
}

impl Place {
    /// `as_agent`: whose rights to ask for.
    pub(super) async fn doctor(&self, as_agent: Option<String>) -> Doctor {
        let mut paths = Paths::from_env().below(&self.root);
        if let Some(file) = &self.config {
            paths.config.clone_from(file);
        }
        let host = Host::new(&self.root);
        let read = Config::load(&paths.config, &self.overrides);
        let (config, source) = match read {
            Err(error) if error.is_absent() && self.says_nothing() => match ask_agent(&paths).await {
                Ok(config) => (Ok(config), Source::Agent),
                Err(why) => (Err(error), Source::Unanswered(why.to_string())),
            },
            read => (read, Source::File),
        };
        // One from the command line is where it says, one from the file is the node's.
        let here = config.as_ref().ok().filter(|_| source == Source::File);
        let configured = here.and_then(|config| config.agent.kubeconfig.as_ref());
        let configured = configured.map(|file| host.path(file));
        let kubeconfig = self.overrides.kubeconfig.clone().or(configured);
        let cluster = (!self.offline).then_some(Access { kubeconfig, as_agent });
        Doctor { host, paths, config, source, cluster }
    }

    /// Whether neither a file nor a value was asked for, so that the agent's own are as good.
    fn says_nothing(&self) -> bool {
        let kubeconfig = self.overrides.kubeconfig.clone();
        self.config.is_none() && self.overrides == Overrides { kubeconfig, ..Overrides::default() }
    }
}

/// What the agent on this node runs with.
async fn ask_agent(paths: &Paths) -> Result<Config, ClientError> {
    Client::new(&paths.agent_socket()).with_timeout(AGENT_TIMEOUT).get("/v1/config").await
}

/// A finding a paragraph, remedies below what was seen.
fn render(report: &Report) -> String {
    let mut text: String = report.findings.iter().map(paragraph).collect();
    if let Some(lines) = &report.suggested_config {
        text += &format!("\nFor config.toml, as found in the cluster:\n{lines}");
    }
    text + &format!("\n{}\n", summary(report))
}

fn summary(report: &Report) -> String {
    let some = |severity: Severity, word: &str| match report.count(severity) {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    let (problems, warnings) = (some(Severity::Problem, "problem"), some(Severity::Warning, "warning"));
    let (ok, skipped) = (report.count(Severity::Ok), report.count(Severity::Skipped));
    format!("{problems}, {warnings}, {ok} ok, {skipped} skipped")
}

pub(super) fn paragraph(finding: &Finding) -> String {
    /// Widths of the columns before the text, and of the text: 80 together.
    const SEVERITY: usize = 9;
    const CHECK: usize = 16;
    const TEXT: usize = 55;
    let mut lines = table::wrap(&table::visible(&finding.seen), TEXT);
    if let Some(remedy) = &finding.remedy {
        lines.extend(table::wrap(&table::visible(&format!("-> {remedy}")), TEXT));
    }
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let (severity, check) = if index == 0 { (finding.severity.label(), finding.check) } else { ("", "") };
        text += format!("{severity:<SEVERITY$}{check:<CHECK$}{line}").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let long = "fd00:1111:2222:3333:4444:5555:6666:7777/128,".repeat(3);
        let findings = vec![
            Finding::ok("kernel", "Linux 6.8"),
            Finding::problem(
                "cluster-ranges",
                format!("clusterPodCIDRs lacks {long}"),
                "write it on every node",
            ),
            Finding::skipped("rbac", "not asked \u{1b}[31m"),
        ];
        let suggested_config = Some("serviceCIDRs = [\"10.96.0.0/12\"]\n".into());
        Report { version: "0", installed: false, findings, suggested_config }
    }

    #[test]
    fn the_answer_fits_a_terminal_and_cuts_nothing() {
        let text = render(&report());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let letters: String = text.split_whitespace().collect();
        for part in [
            "ok       kernel          Linux 6.8\n",
            "-> write it on every node",
            "\n1 problem, 0 warnings, 1 ok",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(letters.contains("5555:6666:7777/128,fd00:1111"), "{text}");
        assert!(text.contains("not asked \\u{1b}[31m") && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains("\nserviceCIDRs = [\"10.96.0.0/12\"]\n"));
    }

    #[test]
    fn the_json_has_words_for_programs() {
        let value = serde_json::to_value(report()).unwrap();
        assert_eq!(value["findings"][1]["severity"], "problem");
        assert_eq!(value["findings"][1]["check"], "cluster-ranges");
        assert_eq!(value["findings"][0].get("remedy"), None);
        assert_eq!(value["suggestedConfig"], "serviceCIDRs = [\"10.96.0.0/12\"]\n");
    }
}
