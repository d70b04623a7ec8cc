//! `selvedge support`.

use std::path::PathBuf;

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

In it: version, configuration, the doctor's findings, status and metrics of agent and tunnel, Selvedge's own
nftables tables, devices, routes, rules and sysctls, counters of the kernel, Events; manifest.json lists it,
and what could not be had. Names and addresses of nodes are in it. Private keys, preshared keys and tokens
are not: the key store is only listed, and a last filter takes out what looks like one.")]
struct Bundle {
    /// The file (.tar.gz, .tgz) or folder to write; a file in the current folder by default. It must not exist.
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[expect(clippy::print_stdout, reason = "this is the answer")]
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let Action::Bundle(args) = &args.action;
    // Fails only if a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let doctor = args.place.doctor(None);
    let bundle = super::block_on(support::bundle(&doctor, Timestamp::now()))?;
    let output = args.output.clone().unwrap_or_else(|| format!("{}.tar.gz", bundle.name).into());
    archive::write(&bundle, &output).map_err(anyhow::Error::new)?;
    println!("wrote {}: {} files", output.display(), bundle.files.len());
    let redacted: usize = bundle.manifest.files.iter().map(|file| file.redacted).sum();
    if redacted > 0 {
        println!("{redacted} secrets were taken out; see manifest.json for the files");
    }
    for missing in &bundle.manifest.missing {
        let why = missing.why.lines().next().unwrap_or_default();
        println!("without {}: {}", missing.what, table::visible(why));
    }
    Ok(Exit::Ok)
}
