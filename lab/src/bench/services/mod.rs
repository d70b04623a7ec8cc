//! How fast Services are served: Selvedge beside kube-proxy in nftables mode, and beside the kernel alone.
//!
//! Three kinds of measurement, each in namespaces of its own. *Kernel*: what the agent's controller of Services does, in this
//! process, and the same bytes written raw. *Packets*: connections through the rules, on hosts without processes. *Cluster*: the
//! agent and kube-proxy as processes, each with a node and an API server of its own with the same objects.

mod change;
mod cluster;
mod cold;
mod connect;
mod contender;
mod follow;
mod goal;
mod ground;
mod host;
mod object;
mod outcome;
mod probe;
mod processor;
mod rate;
mod raw;
mod report;
mod resync;
mod sample;
mod start;
mod stream;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use goal::all as goals;
pub use object::MOST as MOST_SERVICES;
pub use outcome::{
    Change, Cold, Connect, Follow, Goal, InCluster, Machine, Outcome, Rate, Resync, Start, Stream,
};
pub use report::table;

use crate::error::Error;
use crate::plan::{Families, Plan};
use cluster::Cluster;
use ground::Ground;
use host::Host;
use probe::Probe;

/// One part of what is measured, and how thoroughly.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// What to measure.
    pub part: Part,
    /// How often a whole table is written, and compared.
    pub rounds: usize,
    /// How often each program starts.
    pub starts: usize,
    /// How many backends change.
    pub changes: u32,
    /// How many connections begin on each host.
    pub connections: u32,
    /// How many streams are sent each way.
    pub streams: usize,
    /// For how long each.
    pub stream_time: Duration,
    /// How many endpoints change for each program, until a packet follows.
    pub follows: usize,
    /// Pause between two of them for the same program, where both programs take turns: longer than kube-proxy's
    /// `minSyncPeriod`, or that is what would be measured.
    pub rest: Duration,
    /// How many EndpointSlices change per second, and for how long.
    pub rate: (u32, Duration),
    /// An empty folder.
    pub folder: PathBuf,
    /// Selvedge's binary.
    pub selvedge: PathBuf,
    /// kube-proxy's.
    pub kube_proxy: PathBuf,
}

/// One part of what is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Part {
    /// Cold sync, changes and resync, with each of these numbers of Services.
    Kernel(Vec<u32>),
    /// Connections and streams, with few Services and with many.
    Packets([u32; 2]),
    /// Both programs, or Selvedge alone.
    Cluster {
        /// How many Services.
        services: u32,
        /// kube-proxy starts, too.
        with_proxy: bool,
        /// What follows a change is measured of kube-proxy, too.
        proxy_follows: bool,
        /// Whether the agent keeps up with many changes is measured.
        with_rate: bool,
    },
}

/// Measures one part. The calling process becomes the control plane, in the network namespace that it is in. `say` reports
/// progress.
///
/// # Errors
/// A node could not be built, a program did not serve its Services, or the kernel refused something.
pub fn measure(options: &Options, say: &dyn Fn(&str)) -> Result<Outcome, Error> {
    match &options.part {
        Part::Kernel(services) => kernel(options, services, say),
        Part::Packets(services) => packets(options, *services, say),
        Part::Cluster { .. } => in_cluster(options, say),
    }
}

fn kernel(options: &Options, services: &[u32], say: &dyn Fn(&str)) -> Result<Outcome, Error> {
    let (cold, mut hosts) = cold::measure(services, options.rounds, say)?;
    say(&format!("{} backends change on each host", options.changes));
    let change = change::measure(&mut hosts, options.changes)?;
    say("resync");
    let resync = resync::measure(&mut hosts, options.rounds)?;
    Ok(Outcome { cold, change, resync, ..Outcome::default() })
}

fn packets(options: &Options, services: [u32; 2], say: &dyn Fn(&str)) -> Result<Outcome, Error> {
    let (_ground, spaces) = Ground::build(&Plan::new(Families::Ipv4, 2).node_plans())?;
    let mut hosts = Vec::new();
    for (ns, services) in spaces.into_iter().zip(services) {
        let mut host = Host::new(ns)?;
        let mut parsed = host::parsed(services)?;
        parsed.push(stream::service()?);
        host.start(&parsed)?;
        // The last one is not to be connected to.
        host.services = services;
        hosts.push(host);
    }
    let Ok(hosts) = <[Host; 2]>::try_from(hosts) else { return Ok(Outcome::default()) };
    say(&format!("{} connections on each host", options.connections));
    let connect = Some(connect::measure(&hosts, options.connections)?);
    say(&format!("{} streams of {:?} each way", options.streams, options.stream_time));
    let stream = Some(stream::measure(&hosts[1], options.streams, options.stream_time)?);
    Ok(Outcome { connect, stream, ..Outcome::default() })
}

fn in_cluster(options: &Options, say: &dyn Fn(&str)) -> Result<Outcome, Error> {
    let Part::Cluster { services, with_proxy, proxy_follows, with_rate } = options.part else {
        return Ok(Outcome::default());
    };
    say(&format!("storing {services} Services"));
    let mut cluster = Cluster::build(options, services, with_proxy)?;
    let mut outcome = InCluster { services, ..InCluster::default() };
    let starts = if proxy_follows { 1 } else { options.starts };
    outcome.starts = start::measure(&mut cluster, starts, say)?;
    if !proxy_follows {
        // It would compare everything again now and then.
        cluster.contenders[1..].iter().for_each(|contender| contender.process().stop());
    }
    let probe = Probe::new(cluster.underlay.router())?;
    if with_rate {
        let (per_second, time) = options.rate;
        say(&format!("{per_second} EndpointSlices change per second, for {time:?}"));
        outcome.rate = Some(rate::measure(&mut cluster.contenders[0], &probe, options.rate, services)?);
    }
    if options.follows > 0 {
        let (contenders, rest) = match proxy_follows {
            true => (&cluster.contenders[..], options.rest),
            false => (&cluster.contenders[..1], options.rest / 10),
        };
        let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
        say(&format!(
            "{} endpoints change, each until a packet follows: {}",
            options.follows,
            names.join(", ")
        ));
        outcome.follow = follow::measure(contenders, &probe, options.follows, rest)?;
    }
    Ok(Outcome { clusters: vec![outcome], ..Outcome::default() })
}
