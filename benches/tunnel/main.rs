//! TCP throughput and idle round trip through two tunnels in two namespaces with a veth pair between them, beside
//! other userspace implementations of WireGuard and the bare veth pair.
//!
//! `cargo bench --bench tunnel` runs it and writes `target/bench/tunnel.md`. The implementations take turns, so
//! that what else the machine does hits all of them alike. `tests/setup.sh` installs the others.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `BENCH_ROUNDS` | turns of each | 7 |
//! | `BENCH_SECONDS` | length of each throughput measurement | 3 |
//! | `BENCH_ONLY` | comma-separated names | all |
//! | `BENCH_BEFORE` | path of an older `selvedge` to compare with | not set |
//! | `BENCH_VERBOSE` | set: show what the tunnels print | not set |

#![expect(clippy::print_stdout, reason = "a program that reports on the terminal")]

mod network;
mod peers;
mod report;
mod traffic;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use network::Network;
use peers::Implementation;
use report::{Measured, Report};

const INSIDE: &str = "SELVEDGE_BENCH_INSIDE";

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(()); // `cargo test --all-targets` runs benches too
    }
    if std::env::var_os(INSIDE).is_some() {
        return measure();
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--bench").env(INSIDE, "1");
    let status = selvedge_lab::isolate::isolate(&mut command).status().context("making namespaces")?;
    anyhow::ensure!(status.success(), "the benchmark failed: {status}");
    Ok(())
}

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn measure() -> anyhow::Result<()> {
    let rounds = number("BENCH_ROUNDS", 7);
    let time = Duration::from_secs(number("BENCH_SECONDS", 3).into());
    let only = std::env::var("BENCH_ONLY").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|one| one == name));
    let all: Vec<_> = Implementation::all().into_iter().filter(|one| wanted(one.name)).collect();
    let mut report = Report::default();
    for round in 0..rounds {
        for step in 0..all.len() {
            let one = &all[(step + round as usize) % all.len()];
            match measure_one(one, time) {
                Ok(measured) => {
                    println!("round {} {:14} {measured}", round + 1, one.name);
                    report.add(one.name, round, measured);
                }
                Err(error) => println!("round {} {:14} left out: {error:#}", round + 1, one.name),
            }
        }
    }
    let text = report.to_string();
    println!("\n{text}");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("tunnel.md");
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}

fn measure_one(one: &Implementation, time: Duration) -> anyhow::Result<Measured> {
    let network = Network::new()?;
    let _running = one.start(&network)?;
    let [from, to] = network.ends();
    let address = if one.command.is_some() { network::INNER[1] } else { network::OUTER[1] };
    traffic::wait_until_reachable(from, to, address)?;
    let round_trip = traffic::round_trip(from, to, address)?;
    let single = traffic::throughput(from, to, address, 1, time)?;
    if std::env::var_os("BENCH_VERBOSE").is_some() {
        println!("{} over 1 stream: {}", one.name, traffic::losses(from, to)?);
    }
    let four = traffic::throughput(from, to, address, 4, time)?;
    Ok(Measured { single, four, round_trip })
}
