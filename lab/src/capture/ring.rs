//! A memory-mapped ring of captured frames (`TPACKET_V3`, packet(7) and the kernel's packet_mmap.rst).
//!
//! The kernel fills blocks of frames and hands each over by setting a bit; we read a block and hand it back. A
//! full ring drops frames, and the kernel counts them.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};

const BLOCK: usize = 1 << 20;
/// A block that is not full is handed over after so many milliseconds.
const RETIRE: u32 = 20;
/// Bytes kept of a frame of the flow whose payload is not looked at.
const HEADERS: u32 = 192;
const WHOLE: u32 = 1 << 18;

/// The ring of one network device.
pub(super) struct Ring {
    socket: OwnedFd,
    map: NonNull<u8>,
    blocks: usize,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone, and the kernel does not care which thread reads it.
#[expect(unsafe_code, reason = "a mapping is a raw pointer")]
unsafe impl Send for Ring {}

/// Counters of the socket since the last reading.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) frames: u64,
    pub(super) drops: u64,
}

/// One captured frame.
pub(super) struct Frame<'a> {
    pub(super) bytes: &'a [u8],
    /// Its length on the wire.
    pub(super) length: usize,
}

impl Ring {
    /// Captures all frames, in and out, of the device `index` of the calling thread's namespace, into `blocks` MiB.
    /// Of TCP segments from or to port `headers_only` just the headers are kept.
    pub(super) fn open(index: u32, blocks: usize, headers_only: Option<u16>) -> io::Result<Self> {
        let socket = packet_socket()?;
        set(&socket, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V3)?;
        if let Some(port) = headers_only {
            attach(&socket, &program(port))?;
        }
        let request = libc::tpacket_req3 {
            tp_block_size: narrow(BLOCK)?,
            tp_block_nr: narrow(blocks)?,
            tp_frame_size: 1 << 11,
            tp_frame_nr: narrow((BLOCK >> 11) * blocks)?,
            tp_retire_blk_tov: RETIRE,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::PACKET_RX_RING, &request)?;
        let map = map(&socket, BLOCK * blocks)?;
        let ring = Self { socket, map, blocks, next: 0 };
        bind(&ring.socket, index, libc::ETH_P_ALL)?;
        Ok(ring)
    }

    /// Hands the frames of the next block to `look`; false when none came within `wait`.
    pub(super) fn block(&mut self, wait: Duration, look: &mut dyn FnMut(Frame<'_>)) -> io::Result<bool> {
        if !self.ready() {
            let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN | PollFlags::POLLERR)];
            let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            match nix::poll::poll(&mut polled, wait) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if !self.ready() {
                // A device that went down leaves an error behind, once; the ring goes on when it is up again.
                let _ = nix::sys::socket::getsockopt(&self.socket, nix::sys::socket::sockopt::SocketError);
                return Ok(false);
            }
        }
        self.read(look);
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.blocks;
        Ok(true)
    }

    /// Frames seen and dropped since the last call.
    pub(super) fn counters(&self) -> io::Result<Counters> {
        let mut stats = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut size = socklen::<libc::tpacket_stats_v3>();
        #[expect(unsafe_code, reason = "no crate wraps this option")]
        // SAFETY: `stats` is what the kernel writes for TPACKET_V3, and `size` is its size.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut size,
            )
        };
        check(result)?;
        Ok(Counters { frames: stats.tp_packets.into(), drops: stats.tp_drops.into() })
    }

    fn ready(&self) -> bool {
        self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    #[expect(unsafe_code, reason = "the ring is shared memory")]
    fn header(&self) -> NonNull<libc::tpacket_hdr_v1> {
        const AT: usize = std::mem::offset_of!(libc::tpacket_block_desc, hdr);
        // SAFETY: `next` is below `blocks`, so the block lies within the mapping.
        unsafe { self.map.add(self.next * BLOCK + AT).cast() }
    }

    #[expect(unsafe_code, reason = "the ring is shared memory")]
    fn status(&self) -> &AtomicU32 {
        // SAFETY: `block_status` is the first field, aligned, within the mapping, and shared with the kernel,
        // which is what an atomic is for.
        unsafe { AtomicU32::from_ptr(self.header().cast::<u32>().as_ptr()) }
    }

    #[expect(unsafe_code, reason = "the ring is shared memory")]
    fn read(&self, look: &mut dyn FnMut(Frame<'_>)) {
        // SAFETY: the status says that this block is ours until it is handed back, so nobody writes to it; all
        // offsets are the kernel's, and stay within the block.
        unsafe {
            let header = self.header().as_ref();
            let block = self.map.add(self.next * BLOCK);
            let mut at = header.offset_to_first_pkt as usize;
            for _ in 0..header.num_pkts {
                let packet: NonNull<libc::tpacket3_hdr> = block.add(at).cast();
                let packet = packet.as_ref();
                let bytes = block.add(at + usize::from(packet.tp_mac));
                let bytes = std::slice::from_raw_parts(bytes.as_ptr(), packet.tp_snaplen as usize);
                look(Frame { bytes, length: packet.tp_len as usize });
                at += packet.tp_next_offset as usize;
            }
        }
    }
}

impl Drop for Ring {
    #[expect(unsafe_code, reason = "the ring is shared memory")]
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no slice of it outlives `block`.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.blocks * BLOCK) };
    }
}

/// A socket that sends whole frames on the device `index` of the calling thread's namespace.
pub(super) fn sender(index: u32) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    bind(&socket, index, 0)?;
    Ok(socket)
}

fn packet_socket() -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "nix has no protocol 0 for packet sockets")]
    // SAFETY: plain system call; the descriptor it gives is ours.
    unsafe {
        let raw = check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(raw))
    }
}

#[expect(unsafe_code, reason = "nix binds packet sockets to no protocol of choice")]
fn bind(socket: &OwnedFd, index: u32, protocol: libc::c_int) -> io::Result<()> {
    let protocol = u16::try_from(protocol).map_err(io::Error::other)?;
    // SAFETY: the address is a plain structure, filled in, and its length is given.
    unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = libc::c_int::try_from(index).map_err(io::Error::other)?;
        let size = socklen::<libc::sockaddr_ll>();
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size)).map(drop)
    }
}

#[expect(unsafe_code, reason = "no crate wraps these options")]
fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let (fd, size) = (socket.as_raw_fd(), socklen::<T>());
    // SAFETY: `value` is the structure that the option takes, and its size is given.
    let result =
        unsafe { libc::setsockopt(fd, libc::SOL_PACKET, option, std::ptr::from_ref(value).cast(), size) };
    check(result).map(drop)
}

#[expect(unsafe_code, reason = "no crate maps a packet ring")]
fn map(socket: &OwnedFd, length: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let map = unsafe {
        libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, socket.as_raw_fd(), 0)
    };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(map.cast()).ok_or_else(|| io::Error::other("a mapping at address 0"))
}

#[expect(unsafe_code, reason = "no crate attaches a filter")]
fn attach(socket: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let (fd, size) = (socket.as_raw_fd(), socklen::<libc::sock_fprog>());
    // SAFETY: the kernel copies the program, which is not written to, before the call returns.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size)
    };
    check(result).map(drop)
}

/// Classic BPF (bpf(4)) that cuts unfragmented TCP segments from or to `port` after their headers.
fn program(port: u16) -> Vec<libc::sock_filter> {
    let op = |code: u16, k: u32, jt: u8, jf: u8| libc::sock_filter { code, jt, jf, k };
    let (load_half, load_byte, load_indexed) = (0x28, 0x30, 0x48);
    let (equal, any_bit, header_length, give) = (0x15, 0x45, 0xb1, 0x06);
    let port = u32::from(port);
    vec![
        op(load_half, 12, 0, 0),
        op(equal, 0x0800, 0, 9),
        op(load_byte, 23, 0, 0),
        op(equal, 6, 0, 15),
        op(load_half, 20, 0, 0),
        op(any_bit, 0x3fff, 13, 0),
        op(header_length, 14, 0, 0),
        op(load_indexed, 14, 0, 0),
        op(equal, port, 9, 0),
        op(load_indexed, 16, 0, 0),
        op(equal, port, 7, 8),
        // 11: IPv6, without extension headers.
        op(equal, 0x86dd, 0, 7),
        op(load_byte, 20, 0, 0),
        op(equal, 6, 0, 5),
        op(load_half, 54, 0, 0),
        op(equal, port, 2, 0),
        op(load_half, 56, 0, 0),
        op(equal, port, 0, 1),
        // 18 and 19: what to keep.
        op(give, HEADERS, 0, 0),
        op(give, WHOLE, 0, 0),
    ]
}

fn narrow(value: usize) -> io::Result<u32> {
    u32::try_from(value).map_err(io::Error::other)
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("kernel structures are small")
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
