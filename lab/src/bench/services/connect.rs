//! The first packet of a connection: `connect()` through a cluster IP, on a host with few Services and on one with many.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::host::Host;
use super::object::{self, PORTS};
use super::sample::Sample;
use crate::error::{Doing as _, Error};

/// Connections between two looks at the other host.
const BATCH: u32 = 32;

/// On both hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connect {
    /// Services of each.
    pub services: [u32; 2],
    /// Milliseconds on each.
    pub millis: [Sample; 2],
    /// The median of a batch of connections on the second host as a multiple of that on the first, batch by batch.
    pub ratio: Sample,
}

/// Connects so many times on each host, in turns, to one Service after another.
pub(super) fn measure(hosts: &[Host; 2], connections: u32) -> Result<Connect, Error> {
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut medians = Vec::new();
    let mut warm = true;
    for batch in 0..=connections.div_ceil(BATCH) {
        let sockets = [sockets(&hosts[0].ns)?, sockets(&hosts[1].ns)?];
        let mut now: [Vec<Duration>; 2] = Default::default();
        for (at, pair) in (0..BATCH).zip(sockets[0].iter().zip(&sockets[1])) {
            let step = batch * BATCH + at;
            for turn in [0, 1] {
                let which = usize::from((step + turn) % 2 == 1);
                let socket = [pair.0, pair.1][which];
                now[which].push(connect(socket, object::chosen(step, hosts[which].services))?);
            }
        }
        // The first batch finds no neighbour and no route in the caches.
        if !std::mem::take(&mut warm) {
            let median = |which: usize| Sample::millis(&now[which]).median;
            medians.push(median(1) / median(0));
            times[0].append(&mut now[0]);
            times[1].append(&mut now[1]);
        }
    }
    Ok(Connect {
        services: [hosts[0].services, hosts[1].services],
        millis: [Sample::millis(&times[0]), Sample::millis(&times[1])],
        ratio: Sample::of(&medians),
    })
}

/// Sockets of a host, made beforehand: they stay in its namespace, whoever uses them.
fn sockets(host: &NetNs) -> Result<Vec<Socket>, Error> {
    let what = "make sockets";
    let socket = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Ends with a reset, which leaves nothing behind.
        socket.set_linger(Some(Duration::ZERO))?;
        Ok::<_, std::io::Error>(socket)
    };
    host.run(|| (0..BATCH).map(socket).collect::<Result<Vec<_>, _>>()).doing(what)?.doing(what)
}

fn connect(socket: &Socket, service: u32) -> Result<Duration, Error> {
    let to: SocketAddr = (object::cluster_ip(service), PORTS[0]).into();
    let begun = Instant::now();
    socket.connect(&to.into()).doing(format!("connect to {to}"))?;
    Ok(begun.elapsed())
}
