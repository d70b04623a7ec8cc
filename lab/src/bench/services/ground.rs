//! Where packets go: a router that answers for all endpoints itself, with hosts at its cables.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;
use selvedge::kernel::address::Address;
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::netns::NetNs;

use super::object::{ENDPOINTS, PORTS};
use super::processor;
use crate::error::{Doing as _, Error};
use crate::plan::{Cable, NodePlan};
use crate::underlay::Underlay;

/// The port at which the router reads all that is sent.
pub(super) const STREAM_PORT: u16 = 5001;
/// Index of loopback in every network namespace.
const LOOPBACK: u32 = 1;
/// Pause of a server that nobody calls.
const IDLE: Duration = Duration::from_millis(1);

/// A router with cables to so many hosts.
pub(super) async fn router(cables: impl Iterator<Item = &Cable>) -> Result<Underlay, Error> {
    let what = "make a router that answers for all endpoints";
    let underlay = Underlay::create().await.doing(what)?;
    // Loopback answers for a whole prefix.
    let all: IpNet = ENDPOINTS.parse().doing(what)?;
    let netlink = Netlink::in_ns(underlay.router()).doing(what)?;
    netlink.apply([Address::new(LOOPBACK, all).add()]).await.doing(what)?;
    for cable in cables {
        underlay.lay(cable).await.doing(what)?;
    }
    Ok(underlay)
}

/// Hosts without processes, and servers on their router.
pub(super) struct Ground {
    _servers: [Server; 2],
    _underlay: Underlay,
    _runtime: tokio::runtime::Runtime,
}

impl Ground {
    /// Makes a host for each of the nodes.
    pub(super) fn build(nodes: &[NodePlan]) -> Result<(Self, Vec<NetNs>), Error> {
        let what = "make hosts and their router";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(what)?;
        let (underlay, hosts) = runtime.block_on(async {
            let underlay = router(nodes.iter().map(|node| &node.cable)).await?;
            let mut hosts = Vec::new();
            for node in nodes {
                let host = NetNs::create().doing(what)?;
                underlay.plug(&node.cable, &host).await.doing(what)?;
                hosts.push(host);
            }
            Ok::<_, Error>((underlay, hosts))
        })?;
        let servers = [
            Server::start(underlay.router(), PORTS[1], drop)?,
            Server::start(underlay.router(), STREAM_PORT, |mut stream| {
                // What the kernel refuses here, it refuses the sender, which reports it.
                let _ = processor::stay_on(1);
                let mut buffer = vec![0; 256 << 10];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
            })?,
        ];
        Ok((Self { _servers: servers, _underlay: underlay, _runtime: runtime }, hosts))
    }
}

/// A thread that accepts connections, one after the other.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(ns: &NetNs, port: u16, serve: fn(TcpStream)) -> Result<Self, Error> {
        let what = "start a server";
        let listener =
            ns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).doing(what)?.doing(what)?;
        listener.set_nonblocking(true).doing(what)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((stream, _)) if stream.set_nonblocking(false).is_ok() => serve(stream),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(IDLE),
                    _ => {}
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
