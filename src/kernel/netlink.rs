//! The route netlink socket: sends batches of changes and asks for lists.
//!
//! What can be asked and changed is in the modules beside it (`link`, `address`, `route`, `rule`, `neigh`): each
//! makes [`Change`]s, values that name what they do, and [`Netlink::apply`] sends any number of them at once.

use std::io;

use futures::StreamExt as _;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, Socket, SocketAddr};

use super::netns::{self, NetNs};
use super::own;

/// So many acknowledgements fit into a default receive buffer.
const BATCH: usize = 64;
const DUMP_ATTEMPTS: usize = 8;

/// A socket in one network namespace, with a task that serves it until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: ConnectionHandle<RouteNetlinkMessage>,
}

/// What the kernel did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open a route netlink socket: {0}")]
    Open(#[source] io::Error),
    /// No such namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The kernel refused it.
    #[error("{what}: {source}{detail}")]
    Refused {
        /// What was being done to what.
        what: String,
        /// The errno.
        source: io::Error,
        /// The kernel's own words, in parentheses, if it gave any.
        detail: String,
    },
    /// No answer came.
    #[error("{0}: the netlink socket broke")]
    Broken(String),
    /// The list changed each time while it was read.
    #[error("{0}: the list kept changing while it was read")]
    Unsteady(String),
}

impl Error {
    /// The errno, if the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// One change to ask of the kernel; made by the types of the modules beside this one.
#[derive(Debug, Clone)]
#[must_use = "does nothing until applied"]
pub struct Change {
    what: String,
    message: RouteNetlinkMessage,
    flags: u16,
    tolerated: &'static [i32],
}

impl Change {
    pub(super) fn new(what: String, message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { what, message, flags: flags | NLM_F_REQUEST | NLM_F_ACK, tolerated: &[] }
    }

    /// These errors mean that it is so already.
    pub(super) fn tolerating(self, tolerated: &'static [i32]) -> Self {
        Self { tolerated, ..self }
    }

    /// What it does to what.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl Netlink {
    /// A socket in the namespace of the calling thread. Needs a running tokio runtime.
    pub fn new() -> Result<Self, Error> {
        Self::bound(own::bind)
    }

    /// A socket that is bound by `bind`.
    pub(super) fn bound(bind: impl FnOnce(&mut Socket) -> io::Result<()>) -> Result<Self, Error> {
        let open = || {
            let (mut connection, handle, _) = rtnetlink::proto::new_connection(NETLINK_ROUTE)?;
            connection.set_forward_ack(true);
            connection.set_forward_done(true);
            let socket = connection.socket_mut().socket_mut();
            bind(socket)?;
            socket.set_netlink_get_strict_chk(true)?;
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            tokio::spawn(connection);
            Ok(Self { handle })
        };
        open().map_err(Error::Open)
    }

    /// A socket in `ns`. Needs a running tokio runtime.
    pub fn in_ns(ns: &NetNs) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::current();
        ns.run(|| {
            let _entered = runtime.enter();
            Self::new()
        })?
    }

    /// Applies `changes` in order, as few sends as possible. All are tried; the first error is returned.
    pub async fn apply(&self, changes: impl IntoIterator<Item = Change>) -> Result<(), Error> {
        self.apply_each(changes).await.into_iter().try_for_each(|result| result.map(drop))
    }

    /// Applies `changes` in order and tells of each whether it changed something.
    pub async fn apply_each(&self, changes: impl IntoIterator<Item = Change>) -> Vec<Result<bool, Error>> {
        let changes: Vec<Change> = changes.into_iter().collect();
        let mut results = Vec::with_capacity(changes.len());
        for batch in changes.chunks(BATCH) {
            results.extend(self.send(batch).await);
        }
        results
    }

    async fn send(&self, batch: &[Change]) -> Vec<Result<bool, Error>> {
        let broken = |change: &Change| Err(Error::Broken(change.what.clone()));
        let messages: Vec<_> = batch.iter().map(|change| message(&change.message, change.flags)).collect();
        let Ok(mut answers) = self.handle.request_batch(messages, kernel()) else {
            return batch.iter().map(broken).collect();
        };
        let mut results = Vec::with_capacity(batch.len());
        for change in batch {
            results.push(match answers.next().await {
                Some(answer) => verdict(change, answer),
                None => broken(change),
            });
        }
        results
    }

    /// Everything the kernel lists for `request`.
    pub(super) async fn dump(
        &self,
        what: &str,
        request: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(list) = self.dump_once(what, request).await? {
                return Ok(list);
            }
        }
        Err(Error::Unsteady(what.to_owned()))
    }

    /// Nothing, if the list changed meanwhile.
    async fn dump_once(
        &self,
        what: &str,
        request: &RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, Error> {
        let mut list = Vec::new();
        let mut steady = true;
        let mut answers = self.ask(what, request, NLM_F_DUMP)?;
        while let Some(answer) = answers.next().await {
            steady &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => list.push(message),
                NetlinkPayload::Done(done) if done.code < 0 => return Err(refused(what, -done.code, &[])),
                NetlinkPayload::Done(_) => return Ok(steady.then_some(list)),
                NetlinkPayload::Error(error) => {
                    return Err(refused(what, error.raw_code().abs(), &error.header));
                }
                _ => return Err(Error::Broken(what.to_owned())),
            }
        }
        Err(Error::Broken(what.to_owned()))
    }

    /// The one object that `request` names.
    pub(super) async fn get(
        &self,
        what: &str,
        request: &RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, Error> {
        let mut answers = self.ask(what, request, 0)?;
        match answers.next().await.map(|answer| answer.payload) {
            Some(NetlinkPayload::InnerMessage(message)) => Ok(message),
            Some(NetlinkPayload::Error(error)) => Err(refused(what, error.raw_code().abs(), &error.header)),
            _ => Err(Error::Broken(what.to_owned())),
        }
    }

    fn ask(
        &self,
        what: &str,
        request: &RouteNetlinkMessage,
        flags: u16,
    ) -> Result<impl futures::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>, Error> {
        self.handle
            .request(message(request, flags | NLM_F_REQUEST), kernel())
            .map_err(|_| Error::Broken(what.to_owned()))
    }
}

fn kernel() -> SocketAddr {
    SocketAddr::new(0, 0)
}

fn message(payload: &RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NetlinkMessage::from(payload.clone());
    message.header.flags = flags;
    message
}

fn verdict(change: &Change, answer: NetlinkMessage<RouteNetlinkMessage>) -> Result<bool, Error> {
    match answer.payload {
        NetlinkPayload::Error(error) => match error.raw_code().abs() {
            0 => Ok(true),
            errno if change.tolerated.contains(&errno) => Ok(false),
            errno => Err(refused(&change.what, errno, &error.header)),
        },
        _ => Err(Error::Broken(change.what.clone())),
    }
}

/// `quoted` is the header of the refused message and, behind it, the extended acknowledgement.
fn refused(what: &str, errno: i32, quoted: &[u8]) -> Error {
    let detail = extended_message(quoted).map(|text| format!(" ({text})")).unwrap_or_default();
    Error::Refused { what: what.to_owned(), source: io::Error::from_raw_os_error(errno), detail }
}

/// `NLMSGERR_ATTR_MSG` behind the 16 bytes of the quoted header (NETLINK_CAP_ACK is on).
fn extended_message(quoted: &[u8]) -> Option<String> {
    const MESSAGE: u16 = 1;
    let attributes = quoted.get(16..)?;
    let message = rtnetlink::packet_core::NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == MESSAGE)?;
    let text = String::from_utf8_lossy(message.value());
    Some(text.trim_end_matches('\0').to_owned())
}
