//! Throughput of one TCP stream: through a cluster IP beside directly to its endpoint.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge::kernel::protocol::Protocol;
use selvedge::service::object::{Service, ServicePort, Slice, SlicePort};
use serde::{Deserialize, Serialize};

use super::ground::STREAM_PORT;
use super::host::Host;
use super::object::{self, Parsed};
use super::processor;
use super::sample::Sample;
use crate::error::{Doing as _, Error};

/// Where the stream goes, and the Service that it goes through.
const ENDPOINT: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 3);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 2);

/// Both ways.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// Services of the host.
    pub services: u32,
    /// Gbit/s through the cluster IP.
    pub service: Sample,
    /// Gbit/s directly.
    pub direct: Sample,
    /// The first as a multiple of the second, pair by pair.
    pub ratio: Sample,
}

/// The Service of the stream, for the balancer.
pub(super) fn service() -> Result<Parsed, Error> {
    let mut parsed = object::parsed(0)?;
    parsed.name.name = "stream".into();
    let port =
        ServicePort { name: "main".into(), protocol: Protocol::Tcp, port: STREAM_PORT, node_port: None };
    parsed.service =
        Arc::new(Service { cluster_ips: vec![CLUSTER_IP.into()], ports: vec![port], ..Service::default() });
    let mut endpoint = parsed.slice.endpoints[0].clone();
    endpoint.address = ENDPOINT.into();
    parsed.slice = Arc::new(Slice {
        service: "stream".into(),
        ports: vec![SlicePort { name: "main".into(), protocol: Protocol::Tcp, port: STREAM_PORT }],
        endpoints: vec![endpoint],
        ..Slice::default()
    });
    Ok(parsed)
}

/// Sends for `time` each way, so many times, in turns. The host serves [`service`].
pub(super) fn measure(host: &Host, pairs: usize, time: Duration) -> Result<Stream, Error> {
    let mut rates: [Vec<f64>; 2] = Default::default();
    for pair in 0..pairs {
        for turn in [0, 1] {
            let which = (pair + turn) % 2;
            let to = [CLUSTER_IP, ENDPOINT][which];
            rates[which].push(rate(&host.ns, (to, STREAM_PORT).into(), time)?);
        }
    }
    let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(service, direct)| service / direct).collect();
    let [service, direct] = rates.map(|rates| Sample::of(&rates));
    Ok(Stream { services: host.services, service, direct, ratio: Sample::of(&ratios) })
}

/// In Gbit/s, from the first byte until the other end has read the last. The thread that sends has a processor of its own.
fn rate(host: &NetNs, to: SocketAddr, time: Duration) -> Result<f64, Error> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            processor::stay_on(0)?;
            send(host, to, time)
        });
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn send(host: &NetNs, to: SocketAddr, time: Duration) -> Result<f64, Error> {
    let what = format!("send a stream to {to}");
    let mut stream = host.run(|| TcpStream::connect(to)).doing(&what)?.doing(&what)?;
    let buffer = vec![0; 128 << 10];
    let (begun, mut sent) = (Instant::now(), 0.0);
    while begun.elapsed() < time {
        stream.write_all(&buffer).doing(&what)?;
        sent += 1.0;
    }
    stream.shutdown(std::net::Shutdown::Write).doing(&what)?;
    // Ends when the reader has closed its end.
    stream.read(&mut [0]).doing(&what)?;
    let bits = sent * f64::from(128 << 10) * 8.0;
    Ok(bits / begun.elapsed().as_secs_f64() / 1e9)
}
