//! Port ids of the netlink sockets that this process writes with: they tell its own changes from those of others.
//!
//! The kernel copies the port id of the socket that asked for a change into the notification (`nlmsg_pid`). All such
//! sockets of one process get ids from one block, which is drawn at random: a monitor recognizes them by one comparison,
//! also those that are closed by the time that the notification is read. Ids that the kernel chooses are process ids,
//! which are smaller, or drawn from 2^31, so nobody else's is in the block but by a chance of 2^-19.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rtnetlink::sys::{Socket, SocketAddr};
use socket2::SockFilter;

/// Ids in a block: more than a process can have sockets that it writes with at one time.
const SIZE: u32 = 1 << 12;
const MASK: u32 = !(SIZE - 1);

static BLOCK: LazyLock<u32> = LazyLock::new(|| {
    /// Above all process ids.
    const UPPER_HALF: u32 = 1 << 31;
    // Without random numbers the process id is as good as what the kernel chooses from.
    let random = getrandom::u32().unwrap_or_else(|_| std::process::id().wrapping_mul(SIZE));
    (UPPER_HALF | random) & MASK
});
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Binds a socket to a port id that marks what it does as this process's own.
pub(super) fn bind(socket: &mut Socket) -> io::Result<()> {
    for _ in 0..SIZE {
        let id = *BLOCK | NEXT.fetch_add(1, Ordering::Relaxed) & !MASK;
        match socket.bind(&SocketAddr::new(id, 0)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Whether a notification is about a change that this process asked for.
pub(super) fn is_own(port_id: u32) -> bool {
    port_id & MASK == *BLOCK
}

/// A filter for sockets that listen: notifications about own changes take no room in their buffers. A datagram is about
/// changes of one process, so its first message tells.
pub(super) fn filter() -> [SockFilter; 5] {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    /// Offset of `nlmsg_pid`. It is in host order, and the filter's loads are in network order.
    const PORT_ID: u32 = 12;
    [
        SockFilter::new(LOAD_WORD, 0, 0, PORT_ID),
        SockFilter::new(AND, 0, 0, MASK.to_be()),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, BLOCK.to_be()),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}
