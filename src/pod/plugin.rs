//! The plugin: one request in, one answer out.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::error::{Code, Error};
use super::node::{self, NodeInfo};
use super::reply::{Failed, Versions};
use super::request::{self, Environment, Request, Verb, Version};
use super::{add, check, del, gc};
use crate::kernel::nft;
use crate::kernel::nft::Family;
use crate::paths::Paths;

/// No network configuration is larger.
const INPUT_LIMIT: u64 = 16 << 20;
/// Runtimes give a plugin minutes; a pod that waits longer than this waits for something that is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer: text for standard output, and whether the verb succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// JSON, or nothing.
    pub output: String,
    /// Exit code 0, else 1.
    pub success: bool,
}

/// Serves the request of this process: environment and standard input in, standard output out. True on success.
#[must_use]
pub fn main() -> bool {
    let environment = Environment::of_process();
    let mut input = vec![];
    let answer = match std::io::stdin().lock().take(INPUT_LIMIT).read_to_end(&mut input) {
        Ok(_) => answer(&environment, &input, Paths::from_env()),
        Err(error) => failed(Version::CURRENT, &Error::new(Code::Io, "standard input can't be read", error)),
    };
    // If nobody reads the answer, nobody is there to be told.
    let written = std::io::stdout().lock().write_all(answer.output.as_bytes());
    answer.success && written.is_ok()
}

/// Serves a request in the calling thread's network namespace.
#[must_use]
pub fn answer(environment: &Environment, input: &[u8], paths: Paths) -> Answer {
    let (version, request) = request::parse(environment, input);
    match request.and_then(|request| serve(version, request, paths)) {
        Ok(output) => Answer { output, success: true },
        Err(error) => failed(version, &error),
    }
}

fn failed(version: Version, error: &Error) -> Answer {
    let output = json(&Failed { cni_version: version, error }).unwrap_or_default();
    Answer { output, success: false }
}

fn serve(version: Version, request: Request, paths: Paths) -> Result<String, Error> {
    let Request { config, verb } = request;
    let paths = config.paths(paths);
    match verb {
        Verb::Version => json(&Versions::new(version)),
        Verb::Status => status(&paths).map(|()| String::new()),
        Verb::Add { attachment, netns, pod, host_ports } => {
            let add = add::Add { config, attachment, netns, pod, host_ports, paths };
            run(async { json(&add.run(version).await?) })
        }
        Verb::Del { attachment } => run(del::run(&paths, &attachment)).map(|()| String::new()),
        Verb::Check { attachment, netns, previous } => {
            run(check::run(&paths, &attachment, &netns, &previous)).map(|()| String::new())
        }
        Verb::Gc { valid } => run(gc::run(&paths, &config.network, &valid)).map(|()| String::new()),
    }
}

/// Runs `work` on this thread, for a bounded time.
fn run<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Code::Io, "the plugin can't start", error))?;
    let late = |_| {
        let reason = format!("the kernel has not answered for {PATIENCE:?}");
        Err(Error::new(Code::TryAgain, "it took too long", reason))
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(late) })
}

/// Whether ADD would work (CNI specification 1.1.0, "STATUS").
fn status(paths: &Paths) -> Result<(), Error> {
    let unavailable = |reason: &dyn std::fmt::Display| {
        Error::new(Code::NotAvailable, "this node is not ready for pods", reason)
    };
    NodeInfo::load(paths).map_err(|error| unavailable(&error))?;
    if !node::is_ready(paths) {
        return Err(unavailable(&"the agent of this node has not finished a start since boot"));
    }
    // Nothing of a pod's can be kept in check where this does not answer.
    nft::tables(Family::Netdev).map_err(|error| unavailable(&error))?;
    Ok(())
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string(value);
    text.map(|text| text + "\n").map_err(|error| Error::new(Code::Io, "the answer can't be written", error))
}
