//! `selvedge support`.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;

use super::doctor::Place;
use super::{Exit, Failure, table};
use crate::support::{self, archive};

/// Options of `selvedge support`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Write one file, or a folder, with all that tells how this node is doing, and no secret.
    Bundle(Box<Bundle>),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge support bundle
  selvedge support bundle --output /tmp/node1.tar.gz
  selvedge support bundle --output /tmp/node1        # a folder, to look at before it is sent
  kubectl -n selvedge-system exec POD -- /selvedge support bundle --output - > node1.tar.gz

In it: version, configuration, the doctor's findings, status and metrics of agent and tunnel, Selvedge's own
nftables tables, devices, routes, rules and sysctls, counters of the kernel, Events, and on the node itself
the end of what Selvedge's containers have logged; manifest.json lists it, and what could not be had. Names
and addresses of nodes are in it. Private keys, preshared keys and tokens are not: the key store is only
listed, and a last filter takes out what looks like one.")]
struct Bundle {
    /// The file (.tar.gz, .tgz) or folder to write; a file in the current folder by default. It must not exist.
    /// `-` writes a .tar.gz to standard output.
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let Action::Bundle(args) = &args.action;
    // Fails only if a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let piped = args.output.as_deref() == Some(Path::new("-"));
    if piped && io::stdout().is_terminal() {
        return Err(anyhow::anyhow!("standard output is a terminal: add `> node1.tar.gz`").into());
    }
    let bundle =
        super::block_on(async { support::bundle(&args.place.doctor(None).await, Timestamp::now()).await })?;
    if piped {
        let written = archive::compressed(&bundle, io::stdout().lock()).and_then(|mut to| to.flush());
        written.context("cannot write to standard output")?;
        tell(&bundle, "standard output", &mut io::stderr().lock())?;
    } else {
        let output = args.output.clone().unwrap_or_else(|| format!("{}.tar.gz", bundle.name).into());
        archive::write(&bundle, &output).map_err(anyhow::Error::new)?;
        tell(&bundle, &output.display().to_string(), &mut io::stdout().lock())?;
    }
    Ok(Exit::Ok)
}

/// What was written where, and what is not in it.
fn tell(bundle: &support::Bundle, output: &str, to: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(to, "wrote {output}: {} files", bundle.files.len())?;
    let redacted: usize = bundle.manifest.files.iter().map(|file| file.redacted).sum();
    if redacted > 0 {
        writeln!(to, "{redacted} secrets were taken out; see manifest.json for the files")?;
    }
    for missing in &bundle.manifest.missing {
        let why = missing.why.lines().next().unwrap_or_default();
        writeln!(to, "without {}: {}", missing.what, table::visible(why))?;
    }
    Ok(())
}
