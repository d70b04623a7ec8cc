//! A box between two tunnels that loses, repeats, swaps and damages datagrams, always in the same way, and keeps
//! what it saw.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use selvedge::kernel::netns::NetNs;

const READ: Duration = Duration::from_millis(20);

/// What it does to each so-manieth datagram; 0 for none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mischief {
    pub(crate) lose: usize,
    pub(crate) repeat: usize,
    pub(crate) swap: usize,
    pub(crate) damage: usize,
}

/// The running box. It listens on a port of its own and passes everything on to one target.
pub(crate) struct Middlebox {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    outside: UdpSocket,
    inside: UdpSocket,
    client: Mutex<Option<SocketAddr>>,
    /// What came from the client, and what came from the target.
    seen: [Mutex<Vec<Vec<u8>>>; 2],
    mischief: Mischief,
    stop: AtomicBool,
}

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToTarget = 0,
    ToClient = 1,
}

impl Middlebox {
    /// Starts it in `ns`, in front of `target`, which is in there too.
    pub(crate) fn start(ns: &NetNs, target: SocketAddr, mischief: Mischief) -> Self {
        let bind = |address: &str| ns.run(|| UdpSocket::bind(address).unwrap()).unwrap();
        let (outside, inside) = (bind("0.0.0.0:0"), bind("127.0.0.1:0"));
        inside.connect(target).unwrap();
        for socket in [&outside, &inside] {
            socket.set_read_timeout(Some(READ)).unwrap();
            socket2::SockRef::from(socket).set_recv_buffer_size(8 << 20).unwrap();
        }
        let port = outside.local_addr().unwrap().port();
        let (client, seen, stop) = (Mutex::default(), Default::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { outside, inside, client, seen, mischief, stop });
        let threads = [Way::ToTarget, Way::ToClient].map(|way| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.run(way))
        });
        Self { port, shared, threads: threads.into() }
    }

    /// All that went this way, as it came.
    pub(crate) fn seen(&self, way: Way) -> Vec<Vec<u8>> {
        self.shared.seen[way as usize].lock().unwrap().clone()
    }

    /// Sends `bytes` this way, as if they had come.
    pub(crate) fn inject(&self, way: Way, bytes: &[u8]) {
        self.shared.pass(way, bytes);
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, way: Way) {
        let mut buffer = vec![0; 1 << 16];
        let mut held: Option<Vec<u8>> = None;
        for number in 1.. {
            let Some(length) = self.receive(way, &mut buffer) else { return };
            let datagram = buffer[..length].to_vec();
            self.seen[way as usize].lock().unwrap().push(datagram.clone());
            let hit = |every: usize| every != 0 && number % every == 0;
            if hit(self.mischief.lose) {
                continue;
            }
            if hit(self.mischief.damage) {
                let mut damaged = datagram;
                let middle = damaged.len() / 2;
                damaged[middle] ^= 1;
                self.pass(way, &damaged);
                continue;
            }
            if hit(self.mischief.swap) && held.is_none() {
                held = Some(datagram);
                continue;
            }
            self.pass(way, &datagram);
            if hit(self.mischief.repeat) {
                self.pass(way, &datagram);
            }
            if let Some(late) = held.take() {
                self.pass(way, &late);
            }
        }
    }

    /// The next datagram; nothing when the box is to stop.
    fn receive(&self, way: Way, buffer: &mut [u8]) -> Option<usize> {
        while !self.stop.load(Ordering::Acquire) {
            let received = match way {
                Way::ToTarget => self.outside.recv_from(buffer).map(|(length, from)| {
                    *self.client.lock().unwrap() = Some(from);
                    length
                }),
                Way::ToClient => self.inside.recv(buffer),
            };
            if let Ok(length) = received {
                return Some(length);
            }
        }
        None
    }

    fn pass(&self, way: Way, bytes: &[u8]) {
        // A target that is not there yet refuses; that is a loss like others.
        let _ = match (way, *self.client.lock().unwrap()) {
            (Way::ToTarget, _) => self.inside.send(bytes),
            (Way::ToClient, Some(client)) => self.outside.send_to(bytes, client),
            (Way::ToClient, None) => Ok(0),
        };
    }
}
