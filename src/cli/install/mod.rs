//! `selvedge install`: puts Selvedge on a cluster.
//!
//! In the order in which it goes: what the cluster is like ([`choice`]) and what is installed there ([`again`]), what
//! speaks against it, a dry run of every object, the objects themselves, waiting until the nodes are ready, and removing
//! what nothing uses any more.

mod again;
mod answer;
mod choice;

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::progress::Progress;
use super::{Exit, Failure, Output, print};
use crate::cluster::apply::{self, Mode};
use crate::cluster::discover::Facts;
use crate::cluster::installed::Installed;
use crate::cluster::{Access, connect, finding, firewall, prune, rollout};
use crate::config::{Config, Services};
use crate::manifest::{self, AGENT, ApiServer, Distribution, TUNNEL};
use answer::Answer;
use choice::Choice;

/// When the agents serve Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Serve {
    /// Always.
    On,
    /// Where kube-proxy does not.
    Auto,
}

/// Options of `selvedge install`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge install
  selvedge install --dry-run --cluster-pod-cidr 10.244.0.0/16 --service-cidr 10.96.0.0/12
  selvedge install --distribution k3s --config config.toml --render > selvedge.yaml

What is not given is asked of the cluster, and what was found is said. Run again, it changes what differs;
with a newer program, that is the upgrade. What is installed stays as it was told then: configuration, API
server, and repository of the image. Who gives --config or ranges is told what that would change, and nothing
is changed without --reconfigure.

Exit codes: 0 installed and ready, 1 failed, 2 the ranges or another option are missing, 3 something speaks
against it, or nodes are not ready in time, 4 the API server does not answer.")]
pub(super) struct Args {
    /// How the cluster was made; found out by default.
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Pod addresses of the whole cluster; once for each range, or comma-separated. Found out by default.
    #[arg(
        long = "cluster-pod-cidr",
        alias = "cluster-pod-cidrs",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pods: Vec<IpNet>,
    /// Service addresses; once for each range, or comma-separated. Found out by default.
    #[arg(long = "service-cidr", alias = "service-cidrs", value_name = "CIDR", value_delimiter = ',')]
    services: Vec<IpNet>,
    /// A whole config.toml, in place of the ranges; by default the installed one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pods", "services"])]
    config: Option<PathBuf>,
    /// Keep accept rules for pods in iptables' chain DOCKER-USER or FORWARD (iptables-nft), for nodes where it drops what is
    /// forwarded.
    #[arg(long)]
    iptables_forward_rules: bool,
    /// Have the agents serve Services: `on` for clusters without kube-proxy, `auto` to replace a running one, node by node as it
    /// stops. Requires --api-server.
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, default_missing_value = "on", require_equals = true,
        requires = "api_server")]
    serve_services: Option<Serve>,
    /// The image of both DaemonSets; by default this version, of the installed repository if there is one.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// An API server's own address, for clusters without kube-proxy.
    #[arg(long, value_name = "HOST:PORT")]
    api_server: Option<ApiServer>,
    /// Print the objects as YAML, and touch nothing.
    #[arg(long, conflicts_with = "dry_run")]
    render: bool,
    /// Have the API server check every object, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Install beside another pod network, and whatever else speaks against it.
    #[arg(long, visible_alias = "beside")]
    force: bool,
    /// Change what the installed configuration says.
    #[arg(long)]
    reconfigure: bool,
    /// Take over fields of our objects that others have set.
    #[arg(long)]
    force_conflicts: bool,
    /// Do not wait until the nodes are ready.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for that.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = super::duration::parse)]
    timeout: Duration,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    if args.render
        && let Some(choice) = Choice::offline(args)?
    {
        choice.found.iter().for_each(|text| Progress::new().say(text));
        print(&manifest::yaml(&choice.settings.objects()))?;
        return Ok(Exit::Ok);
    }
    super::block_on(install(args))
}

async fn install(args: &Args) -> Result<Exit, Failure> {
    let mut progress = Progress::new();
    let (client, old) = connect(&args.access).await?;
    let facts = Facts::fetch(&client).await?;
    let installed = Installed::fetch(&client).await?;
    let choice = Choice::online(args, &facts, installed.as_ref())?;
    choice.found.iter().for_each(|text| progress.say(text));
    let objects = choice.settings.objects();
    if args.render {
        print(&manifest::yaml(&objects))?;
        return Ok(Exit::Ok);
    }
    let findings = finding::look(&client, &facts, &choice.settings.config, old).await?;
    let mut answer = Answer::new(&choice.settings, args.dry_run);
    let stops = findings.iter().any(|finding| finding.fatal || !args.force);
    if stops || !(choice.losses.is_empty() || args.reconfigure) {
        answer.findings = findings.into_iter().map(|finding| finding.text).chain(choice.losses).collect();
        return end(args, &answer, Exit::Findings);
    }
    choice.losses.iter().for_each(|text| progress.say(text));
    findings.iter().for_each(|finding| progress.say(&format!("going on all the same: {}", finding.text)));
    let trial = Mode { dry_run: true, force: args.force_conflicts };
    answer.objects = apply::all(&client, &objects, trial).await?;
    if args.dry_run {
        return end(args, &answer, Exit::Ok);
    }
    answer.objects = apply::all(&client, &objects, Mode { dry_run: false, ..trial }).await?;
    if args.no_wait {
        return end(args, &answer, Exit::Ok);
    }
    let last = follow(&client, args.timeout, &mut progress).await?;
    let exit = if last.is_done() { Exit::Ok } else { Exit::Findings };
    if last.is_done() {
        tidy(&client, &mut progress).await;
        advise(&client, &choice.settings.config, &mut progress).await;
        if choice.settings.config.services == Services::Off && facts.kube_proxy.is_some() {
            progress.say("kube-proxy serves Services here; to replace it, see --serve-services=auto");
        }
    }
    drop(progress);
    answer.rollout = Some(last);
    end(args, &answer, exit)
}

/// Waits until all is ready, and says what is in the way.
async fn follow(
    client: &kube::Client,
    timeout: Duration,
    progress: &mut Progress,
) -> Result<rollout::Progress, crate::cluster::Error> {
    let mut seen = Vec::new();
    let mut tell = |now: &rollout::Progress| {
        // Each reason once: a terminal has one line alone.
        for why in now.blocked.iter().filter(|why| !is_usual(why)) {
            if !seen.contains(why) {
                progress.say(why);
                seen.push(why.clone());
            }
        }
        progress.now(&now.to_string());
    };
    rollout::follow(client, &[TUNNEL, AGENT], timeout, &mut tell).await
}

/// Selvedge is ready by then, whatever stays behind.
async fn tidy(client: &kube::Client, progress: &mut Progress) {
    match prune::old_maps(client).await {
        Ok(gone) => gone
            .iter()
            .for_each(|name| progress.say(&format!("removed ConfigMap {name}, which nothing uses any more"))),
        Err(error) => progress.say(&format!("old ConfigMaps stay: {error}")),
    }
}

/// Nodes whose firewall drops what pods send to each other, as their agents have reported.
async fn advise(client: &kube::Client, config: &Config, progress: &mut Progress) {
    if config.iptables_forward_rules {
        return;
    }
    match firewall::reported(client).await {
        Ok(reports) => reports.iter().for_each(|text| progress.say(text)),
        Err(error) => progress.say(&format!("what agents say of firewalls is not known: {error}")),
    }
}

/// Every Node says this until its agent is there.
fn is_usual(why: &str) -> bool {
    why.starts_with("Node ")
}

fn end(args: &Args, answer: &Answer, exit: Exit) -> Result<Exit, Failure> {
    match args.output {
        Output::Json => print(&format!("{:#}\n", answer.json(exit)))?,
        Output::Table => print(&answer.table(exit))?,
    };
    Ok(exit)
}
