//! The processes of `selvedge tunnel NAME`.
//!
//! The [`parent`] is tiny: no thread, no runtime, no packets. It holds descriptors that the worker process has
//! given it (TUN queue, UDP sockets, listening sockets, the standalone configuration in memory) and starts the
//! worker again when that dies, handing all of them back: nothing that waits in a queue is lost, and no port or
//! device is ever free for others. The [`child`] is the worker process: it moves packets and serves the sockets.
//!
//! A managed tunnel hands over to the next one that is started with `--take-over`: the parent before gives all that
//! it holds to the parent after, their workers hand over the traffic (see [`super::handover`]), and then the pair
//! before rests until it is stopped, or until the device is free again because its successor is gone.
//!
//! With `--background` a third process starts the parent, passes on what the two write to standard error, and ends as
//! soon as the device can be configured: see [`background`].
//!
//! What ends whom: the worker is killed with the parent (`PR_SET_PDEATHSIG`), so there are no orphans; a new
//! parent waits for the lock that the old pair held. SIGTERM or SIGINT to the parent stops both; a standalone
//! device goes then, a persistent one stays, and with it the kernel's routes over it.

pub mod background;
mod backoff;
pub mod child;
pub mod parent;
mod watch;
