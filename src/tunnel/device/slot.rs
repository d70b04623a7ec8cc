//! A slot holds the sessions between one own key and one key of a peer: the one that sending uses, one that
//! waits to be confirmed, and those before, which still open what was under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use selvedge_keys::{PresharedKey, PublicKey};

use super::identity::Identity;
use super::indices::{Indices, Owner, SlotId};
use super::message;
use super::noise::{Gate, Noise, Refused};
use super::session::Session;
use super::shared::Shared;
use super::timing::{
    HURRIED_TIMEOUT, MAX_JITTER, MAX_RESPONSES, MIN_INITIATION_GAP, REKEY_JITTER, REKEY_TIMEOUT, due,
};

/// Which of a slot's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Current,
    Next,
    Previous,
}

/// A handshake that we began.
pub(super) struct Initiation {
    noise: Noise,
    /// Our index in the newest message; a response to one before is void, as it is at the peer.
    index: u32,
    /// The candidate that the newest message went to, to ask whether the peer is there.
    pub(super) asked: Option<SocketAddr>,
    /// When the first message was sent.
    pub(super) started: Instant,
    /// When the next message is sent if no response comes.
    pub(super) retry_at: Instant,
    responses: u32,
}

pub(super) struct Slot {
    pub(super) id: SlotId,
    pub(super) identity: Arc<Identity>,
    pub(super) own_epoch: u64,
    pub(super) peer_key: PublicKey,
    pub(super) peer_epoch: u64,
    /// The own key is withdrawn.
    pub(super) is_withdrawn: bool,
    /// The peer's key is retired: no handshake begins or is answered, and without a session the slot ends.
    pub(super) is_retired: bool,
    psk: Option<PresharedKey>,
    /// The session that sending uses; we began it, or it is confirmed.
    pub(super) current: Option<Box<Session>>,
    /// The session of an initiation that we answered, until data comes on it.
    pub(super) next: Option<Box<Session>>,
    /// Sessions before, newest first. Three: when both ends begin at once there are two new sessions, and each end
    /// may have sent on another of the two before.
    previous: [Option<Box<Session>>; 3],
    pub(super) initiation: Option<Box<Initiation>>,
    gate: Option<Box<Gate>>,
    last_initiation: Option<Instant>,
    last_accepted: Option<Instant>,
    pub(super) last_handshake: Option<Instant>,
    /// No attempt before this time unless packets wait.
    pub(super) rests_until: Option<Instant>,
    /// The session is to be renewed: the preshared key changed since, or the peer may use another one.
    pub(super) is_stale: bool,
}

impl Slot {
    pub(super) fn new(
        id: SlotId,
        identity: &Arc<Identity>,
        own_epoch: u64,
        peer: PublicKey,
        epoch: u64,
    ) -> Self {
        Self {
            id,
            identity: Arc::clone(identity),
            own_epoch,
            peer_key: peer,
            peer_epoch: epoch,
            is_withdrawn: false,
            is_retired: false,
            psk: None,
            current: None,
            next: None,
            previous: [const { None }; 3],
            initiation: None,
            gate: None,
            last_initiation: None,
            last_accepted: None,
            last_handshake: None,
            rests_until: None,
            is_stale: false,
        }
    }

    /// Uses another preshared key from the next handshake on; the sessions there are stay.
    pub(super) fn set_psk(&mut self, psk: Option<&PresharedKey>, indices: &mut Indices) {
        let psk = psk.filter(|key| !key.is_zero());
        if self.psk.as_ref() != psk {
            self.psk = psk.cloned();
            self.is_stale = self.current.is_some();
            self.abandon(indices);
            release(self.next.take(), indices);
        }
    }

    /// The peer may have turned to a session of another device: a new one is wanted.
    pub(super) fn doubt(&mut self) {
        self.is_stale = self.current.is_some();
        self.last_initiation = None;
        self.rests_until = None;
    }

    pub(super) fn has_psk(&self) -> bool {
        self.psk.is_some()
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        [&self.current, &self.next].into_iter().chain(&self.previous).flatten().map(Box::as_ref)
    }

    /// Whether there is a session to send on.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|session| session.is_usable(now))
    }

    /// Whether there is a session to send on and the peer was heard on it, or on one that it renews.
    pub(super) fn is_confirmed(&self, now: Instant) -> bool {
        self.is_usable(now) && self.sessions().any(|session| session.confirmed && session.is_usable(now))
    }

    /// When the newest session that the peer was heard on was made, if there is a session to send on.
    pub(super) fn confirmed_at(&self, now: Instant) -> Option<Instant> {
        let confirmed = self.sessions().filter(|session| session.confirmed && session.is_usable(now));
        confirmed.map(|session| session.created).max().filter(|_| self.is_usable(now))
    }

    /// Whether the session `local` is the newest that the peer uses, or was made along with it when both ends
    /// began at once.
    pub(super) fn is_recent(&self, local: u32) -> bool {
        let used = self.sessions().filter(|session| session.confirmed && session.local != local);
        let newest = used.map(|session| session.created).max();
        let created = self.sessions().find(|session| session.local == local).map(|session| session.created);
        created.is_some_and(|created| newest.is_none_or(|newest| newest <= created + REKEY_TIMEOUT))
    }

    /// Whether it has a session, of whatever age.
    pub(super) fn has_sessions(&self) -> bool {
        self.sessions().next().is_some()
    }

    /// The greater, the more it is preferred.
    pub(super) fn preference(&self) -> (bool, bool, u64, u64) {
        (!self.is_retired, !self.is_withdrawn, self.own_epoch, self.peer_epoch)
    }

    /// Whether it holds anything that time changes.
    pub(super) fn is_active(&self) -> bool {
        self.initiation.is_some() || self.is_stale || self.has_sessions()
    }

    /// The session that the peer addresses by `index`.
    #[inline]
    pub(super) fn find(&mut self, index: u32) -> Option<(Place, &mut Session)> {
        let previous = self.previous.iter_mut().map(|session| (Place::Previous, session));
        [(Place::Current, &mut self.current), (Place::Next, &mut self.next)]
            .into_iter()
            .chain(previous)
            .find_map(|(place, session)| match session {
                Some(session) if session.local == index => Some((place, session.as_mut())),
                _ => None,
            })
    }

    /// Whether a new handshake may be begun: none is under way, and the last is a while ago.
    pub(super) fn may_initiate(&self, now: Instant) -> bool {
        let answered = self.next.as_ref().is_some_and(|session| now < session.created + REKEY_TIMEOUT);
        let recent = self.last_initiation.is_some_and(|last| now < last + REKEY_TIMEOUT);
        self.initiation.is_none() && !answered && !recent
    }

    /// Whether a handshake is under way with where the peer is.
    pub(super) fn is_initiating(&self) -> bool {
        self.initiation.as_ref().is_some_and(|initiation| initiation.asked.is_none())
    }

    /// Whether the pause after vain attempts is over.
    pub(super) fn is_rested(&self, now: Instant) -> bool {
        self.rests_until.is_none() || due(self.rests_until, now)
    }

    /// A message that begins a handshake, or begins it again; `asked` is the candidate that it is to ask.
    pub(super) fn initiate(
        &mut self,
        owner: Owner,
        asked: Option<SocketAddr>,
        shared: &mut Shared,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let initiation = self.initiation.get_or_insert_with(|| {
            let index = shared.indices.claim(owner, &mut shared.random);
            let noise = Noise::new(&self.identity, &self.peer_key, self.psk.as_ref(), index);
            let index = index << 8;
            Box::new(Initiation { noise, index, asked, started: now, retry_at: now, responses: 0 })
        });
        let is_hurried = shared.hurried_until.is_some_and(|end| now < end);
        let timeout = if is_hurried { HURRIED_TIMEOUT } else { REKEY_TIMEOUT };
        initiation.retry_at = now + timeout + shared.random.jitter(MAX_JITTER);
        self.last_initiation = Some(now);
        let message = initiation.noise.initiate()?;
        initiation.index = message::sender(&message);
        initiation.asked = asked;
        initiation.responses = 0;
        Some(message)
    }

    /// Takes the response to our initiation `receiver`: a new current session. Gives a keepalive on it, and
    /// the candidate that was asked.
    pub(super) fn complete(
        &mut self,
        receiver: u32,
        response: &[u8],
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(Vec<u8>, Option<SocketAddr>), Refused> {
        let waiting = self.initiation.as_mut().filter(|initiation| initiation.index == receiver);
        let initiation = waiting.ok_or(Refused::Unexpected)?;
        initiation.responses += 1;
        if initiation.responses > MAX_RESPONSES {
            return Err(Refused::Unexpected);
        }
        let keepalive = initiation.noise.complete(response)?;
        let asked = initiation.asked;
        if let Some(Initiation { noise, index, .. }) = self.initiation.take().map(|initiation| *initiation) {
            let mut session = Session::new(noise, index, true, now, shared.random.jitter(REKEY_JITTER));
            session.sent = 1;
            self.make_current(Box::new(session), &mut shared.indices);
            self.last_handshake = Some(now);
        }
        Ok((keepalive, asked))
    }

    /// Answers an initiation with a response; its session waits as the next.
    pub(super) fn respond(
        &mut self,
        initiation: &[u8],
        owner: Owner,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<Vec<u8>, Refused> {
        let gate = self.gate.get_or_insert_with(|| Box::new(Gate::new(&self.identity, &self.peer_key)));
        gate.pass(initiation)?;
        self.last_accepted = Some(now);
        // A next session that was never confirmed is made anew: it may hold a cookie that the peer asked for.
        let (mut noise, index) = match self.next.take().map(|session| *session) {
            Some(Session { noise, local, .. }) => (noise, local),
            None => {
                let index = shared.indices.claim(owner, &mut shared.random);
                (Noise::new(&self.identity, &self.peer_key, self.psk.as_ref(), index), index << 8)
            }
        };
        let response = match noise.respond(initiation) {
            Ok(response) => response,
            Err(refused) => {
                shared.indices.release(index);
                return Err(refused);
            }
        };
        let jitter = shared.random.jitter(REKEY_JITTER);
        self.next = Some(Box::new(Session::new(noise, message::sender(&response), false, now, jitter)));
        Ok(response)
    }

    /// Whether the peer initiates faster than anybody needs to.
    pub(super) fn is_flooded(&self, now: Instant) -> bool {
        self.last_accepted.is_some_and(|last| now < last + MIN_INITIATION_GAP)
    }

    /// Takes the cookie that the peer asks us to show with the handshake message `receiver`.
    pub(super) fn cookie(&mut self, receiver: u32, reply: &[u8]) -> Result<(), Refused> {
        if let Some(initiation) = self.initiation.as_mut().filter(|initiation| initiation.index == receiver) {
            return initiation.noise.cookie(reply);
        }
        let next = self.next.as_mut().filter(|session| session.local == receiver);
        next.ok_or(Refused::Unexpected)?.noise.cookie(reply)
    }

    /// The next session was confirmed: it becomes the current one.
    pub(super) fn promote(&mut self, indices: &mut Indices) {
        if let Some(session) = self.next.take() {
            self.make_current(session, indices);
        }
    }

    /// Makes `session` the current one, the next and the current before it the previous ones.
    fn make_current(&mut self, session: Box<Session>, indices: &mut Indices) {
        let older = std::mem::replace(&mut self.previous, [const { None }; 3]);
        let newer = [self.next.take(), self.current.replace(session)];
        let mut before = newer.into_iter().chain(older).flatten();
        self.previous = std::array::from_fn(|_| before.next());
        before.for_each(|session| indices.release(session.local));
        self.is_stale = false;
        self.rests_until = None;
    }

    /// Drops sessions that are too old to carry anything.
    pub(super) fn expire(&mut self, now: Instant, indices: &mut Indices) {
        for place in [&mut self.current, &mut self.next].into_iter().chain(&mut self.previous) {
            if place.as_ref().is_some_and(|session| !session.is_usable(now)) {
                release(place.take(), indices);
            }
        }
    }

    /// Gives up the handshake under way.
    pub(super) fn abandon(&mut self, indices: &mut Indices) {
        if let Some(initiation) = self.initiation.take() {
            indices.release(initiation.index);
        }
    }

    /// Drops all sessions.
    pub(super) fn clear(&mut self, indices: &mut Indices) {
        self.abandon(indices);
        for place in [&mut self.current, &mut self.next].into_iter().chain(&mut self.previous) {
            release(place.take(), indices);
        }
    }

    #[cfg(test)]
    pub(super) fn indices_held(&self) -> usize {
        self.sessions().count() + usize::from(self.initiation.is_some())
    }
}

fn release(session: Option<Box<Session>>, indices: &mut Indices) {
    if let Some(session) = session {
        indices.release(session.local);
    }
}
