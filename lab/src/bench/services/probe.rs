//! From a change of an endpoint until the first datagram through the cluster IP reaches the new one.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;

use super::contender::Site;
use super::object::{PROBE_ENDPOINTS, PROBE_IP, PROBE_PORTS};
use crate::error::{Doing as _, Error};

/// Pause between two datagrams: the resolution, as long as the time is short, ...
const SHORTEST: Duration = Duration::from_micros(500);
/// ... and the part of the time passed that is added to it, so that a slow program costs few connections.
const SHARE: u32 = 50;
/// A change that nothing was seen of by then is lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// The endpoints of the Service.
pub(super) struct Probe {
    receivers: [UdpSocket; 2],
}

impl Probe {
    /// Both, on the router.
    pub(super) fn new(router: &NetNs) -> Result<Self, Error> {
        let what = "make the endpoints that are observed";
        let bind =
            |at: Ipv4Addr| router.run(|| UdpSocket::bind((at, PROBE_PORTS[1]))).doing(what)?.doing(what);
        Ok(Self { receivers: [bind(PROBE_ENDPOINTS[0])?, bind(PROBE_ENDPOINTS[1])?] })
    }

    /// Replaces the Service's endpoint by this one, and sends datagrams from the node until one arrives there. Each datagram begins
    /// a new connection.
    pub(super) fn time(&self, site: Site<'_>, which: usize) -> Result<Duration, Error> {
        let what = "observe a change of endpoints";
        drain(&self.receivers[which]).doing(what)?;
        let measured = site.net.run(|| {
            let begun = Instant::now();
            site.set_probe_endpoint(which)?;
            self.wait(which, begun).doing(what)
        });
        measured.doing(what)?
    }

    fn wait(&self, which: usize, begun: Instant) -> std::io::Result<Duration> {
        let (receiver, to) = (&self.receivers[which], SocketAddr::from((PROBE_IP, PROBE_PORTS[0])));
        while begun.elapsed() < PATIENCE {
            let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            // Refused while the Service has no endpoint.
            let _ = sender.send_to(&[0], to);
            receiver.set_read_timeout(Some(SHORTEST + begun.elapsed() / SHARE))?;
            match receiver.recv(&mut [0; 8]) {
                Ok(_) => return Ok(begun.elapsed()),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}

/// Reads what has arrived before.
fn drain(receiver: &UdpSocket) -> std::io::Result<()> {
    receiver.set_nonblocking(true)?;
    while receiver.recv(&mut [0; 8]).is_ok() {}
    receiver.set_nonblocking(false)
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
