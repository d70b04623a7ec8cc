//! A fleet in a few lines: nodes with agent, tunnel and store, an API server, sessions that live and expire as WireGuard's do.
//! Random schedules must never part two nodes that talk, and once all is up, every rotation ends and all nodes can talk.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A key: of which node and epoch, and the how-manieth that this node has made. An aborted epoch is made again with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    node: usize,
    epoch: u64,
    serial: u32,
}

/// What a Node object shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Object {
    key: Key,
    next: Option<Key>,
}

/// A session as one end has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    own: Key,
    peer: Key,
    created: u64,
    is_initiator: bool,
}

#[derive(Debug, Clone, Default)]
struct Tunnel {
    is_up: bool,
    life: u64,
    /// Own keys, and whether each is withdrawn.
    own: Vec<(Key, bool)>,
    /// Keys of each peer, and whether each is retired.
    peers: BTreeMap<usize, Vec<(Key, bool)>>,
    sessions: BTreeMap<usize, Vec<Session>>,
}

impl Tunnel {
    fn preference(&self, peer: usize, own: Key, theirs: Key) -> Option<(bool, bool, u64, u64)> {
        let (_, is_withdrawn) = self.own.iter().find(|(key, _)| *key == own)?;
        let (_, is_retired) = self.peers.get(&peer)?.iter().find(|(key, _)| *key == theirs)?;
        Some((!is_retired, !is_withdrawn, own.epoch, theirs.epoch))
    }

    fn sending(&self, peer: usize) -> Option<Session> {
        let sessions = self.sessions.get(&peer)?;
        // In a restart the peer may have lost one that is older than another.
        let newest = sessions.iter().map(|session| session.created).max()?;
        let usable = sessions
            .iter()
            .filter(|session| newest == session.created)
            .filter_map(|session| Some((self.preference(peer, session.own, session.peer)?, *session)));
        usable.max_by_key(|(preference, session)| (*preference, session.created)).map(|(_, session)| session)
    }

    /// Pairs of keys that a handshake may begin with, preferred first.
    fn pairs(&self, peer: usize) -> Vec<(Key, Key)> {
        let theirs = self.peers.get(&peer).cloned().unwrap_or_default();
        let mut pairs: Vec<(Key, Key)> = self
            .own
            .iter()
            .flat_map(|(own, _)| theirs.iter().filter(|(_, retired)| !retired).map(|(key, _)| (*own, *key)))
            .collect();
        pairs.sort_by_key(|(own, key)| std::cmp::Reverse(self.preference(peer, *own, *key)));
        pairs
    }

    fn answers(&self, peer: usize, own: Key, theirs: Key) -> bool {
        self.is_up && self.pairs(peer).contains(&(own, theirs))
    }

    /// Sessions of keys that are not configured any more end at once.
    fn prune(&mut self) {
        let kept = self.clone();
        for (peer, sessions) in &mut self.sessions {
            sessions.retain(|session| kept.preference(*peer, session.own, session.peer).is_some());
        }
    }
}

#[derive(Debug, Clone)]
struct Member {
    is_agent_up: bool,
    machine: Option<Machine>,
    disk: Option<Rotation>,
    current: u64,
    store: Vec<Key>,
    made: u32,
    /// The keys that it has accepted of each other node, one of each epoch.
    records: BTreeMap<usize, Vec<Key>>,
    /// The next key that each other node published last. A real agent that is started again has forgotten it, which costs a
    /// handshake's time if the key appears and is withdrawn within a tenth of a second about that start.
    next_keys: BTreeMap<usize, Key>,
    tunnel: Tunnel,
}

struct Fleet {
    now: u64,
    is_api_up: bool,
    objects: Vec<Object>,
    members: Vec<Member>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Rotate(usize, u64),
    Abort(usize),
    AgentStops(usize),
    AgentStarts(usize),
    /// The agent is killed at once after so many steps of its own.
    AgentDiesIn(usize, usize),
    TunnelRestarts(usize),
    ApiStops,
    ApiStarts,
    Pass(u64),
}

impl Fleet {
    fn new(count: usize) -> Self {
        let first = |node| Key { node, epoch: 1, serial: 0 };
        let members = (0..count).map(|node| Member {
            is_agent_up: true,
            machine: None,
            disk: None,
            current: 1,
            store: vec![first(node)],
            made: 1,
            records: BTreeMap::new(),
            next_keys: BTreeMap::new(),
            tunnel: Tunnel { is_up: true, ..Tunnel::default() },
        });
        let objects = (0..count).map(|node| Object { key: first(node), next: None }).collect();
        let mut fleet = Self { now: 0, is_api_up: true, objects, members: members.collect() };
        fleet.pass(5);
        assert!(fleet.talking().iter().all(|(_, talks)| *talks));
        fleet
    }

    /// For each ordered pair whether what one sends is taken by the other.
    fn talking(&self) -> BTreeMap<(usize, usize), bool> {
        let count = self.members.len();
        let pairs = (0..count).flat_map(|a| (0..count).filter(move |b| *b != a).map(move |b| (a, b)));
        pairs.map(|(a, b)| ((a, b), self.arrives(a, b))).collect()
    }

    fn arrives(&self, from: usize, to: usize) -> bool {
        let (sender, receiver) = (&self.members[from].tunnel, &self.members[to].tunnel);
        sender.is_up
            && receiver.is_up
            && sender.sending(to).is_some_and(|sent| {
                let sessions = receiver.sessions.get(&from).map(Vec::as_slice).unwrap_or_default();
                sessions.iter().any(|session| session.own == sent.peer && session.peer == sent.own)
            })
    }

    /// Does `work`, after which those who talked have to talk.
    fn without_loss(&mut self, what: &str, work: impl FnOnce(&mut Self)) {
        let before = self.talking();
        work(self);
        for (pair, talks) in self.talking() {
            assert!(talks || !before[&pair], "{pair:?} no longer talk after {what} at {}", self.now);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Rotate(node, patience) => {
                let now = self.timestamp();
                let member = &mut self.members[node];
                if member.is_agent_up && member.machine.is_none() && member.store.len() == 1 {
                    let rotation = Rotation {
                        from: member.current,
                        to: member.current + 1,
                        begun: now,
                        deadline: now + Duration::from_secs(patience),
                        ..rotation()
                    };
                    member.disk = Some(rotation.clone());
                    member.machine = Some(Machine::new(rotation));
                }
            }
            Event::Abort(node) => {
                let member = &mut self.members[node];
                if let Some(machine) = member.machine.as_mut().filter(|_| member.is_agent_up)
                    && machine.abort("tried").is_ok()
                {
                    member.disk = Some(machine.rotation().clone());
                }
            }
            Event::AgentStops(node) => self.members[node].is_agent_up = false,
            Event::AgentStarts(node) => self.start_agent(node),
            Event::AgentDiesIn(node, steps) => {
                for _ in 0..steps {
                    self.without_loss("a step", |fleet| _ = fleet.agent_step(node));
                }
                self.members[node].is_agent_up = false;
                self.start_agent(node);
            }
            Event::TunnelRestarts(node) => {
                let tunnel = &mut self.members[node].tunnel;
                tunnel.sessions.clear();
                tunnel.life += 1;
            }
            Event::ApiStops => self.is_api_up = false,
            Event::ApiStarts => self.is_api_up = true,
            Event::Pass(seconds) => self.pass(seconds),
        }
    }

    fn start_agent(&mut self, node: usize) {
        let member = &mut self.members[node];
        if !member.is_agent_up {
            member.is_agent_up = true;
            member.machine = member.disk.clone().map(Machine::new);
        }
    }

    fn timestamp(&self) -> Timestamp {
        START + Duration::from_secs(self.now)
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 1;
            self.handshakes();
            for node in 0..self.members.len() {
                for _ in 0..20 {
                    let mut waits = true;
                    self.without_loss("an agent's step", |fleet| waits = fleet.agent_step(node));
                    if waits {
                        break;
                    }
                }
            }
            self.without_loss("expiry", |fleet| fleet.expire());
        }
    }

    /// One run of the agent of `node`: tunnel, Node object, and a step of the machine. True when it waits.
    fn agent_step(&mut self, node: usize) -> bool {
        if !self.members[node].is_agent_up {
            return true;
        }
        let wanted = {
            let member = &self.members[node];
            member.machine.as_ref().map_or_else(|| Wanted::steady(member.current), |m| m.rotation().wanted())
        };
        self.configure(node, &wanted);
        self.publish(node, &wanted);
        let (now, objects) = (self.timestamp(), self.objects.clone());
        let (uptime, is_api_up) = (Duration::from_secs(self.now), self.is_api_up);
        let member = &mut self.members[node];
        let identities: Vec<u64> = member.tunnel.own.iter().map(|(key, _)| key.epoch).collect();
        let epochs: Vec<u64> = member.store.iter().map(|key| key.epoch).collect();
        let Some(machine) = &mut member.machine else {
            if let Some(epoch) = leftover(member.current, &epochs, &identities) {
                member.store.retain(|key| key.epoch != epoch);
            }
            return true;
        };
        let (from, to) = (machine.rotation().from, machine.rotation().to);
        let tunnel = &member.tunnel;
        let sessions = |(peer, sessions): (&usize, &Vec<Session>)| PeerSessions {
            old: sessions.iter().any(|session| session.own.epoch == from),
            new: sessions.iter().any(|session| session.own.epoch == to),
            sending: tunnel.sending(*peer).map_or(0, |session| session.own.epoch),
        };
        let peers: Vec<PeerSessions> =
            tunnel.sessions.iter().map(sessions).filter(|peer| peer.old || peer.new).collect();
        let shown = Shown { epoch: objects[node].key.epoch, has_next: objects[node].next.is_some() };
        let step = machine.step(&Seen {
            now,
            uptime,
            current: member.current,
            epochs: &epochs,
            shown: is_api_up.then_some(shown),
            tunnel: member.tunnel.is_up.then_some(super::super::Tunnel {
                life: member.tunnel.life,
                identities: &identities,
                peers: &peers,
            }),
        });
        match step {
            Step::Wait => return true,
            Step::Create(epoch) => {
                member.store.push(Key { node, epoch, serial: member.made });
                member.made += 1;
            }
            Step::Promote(epoch) => member.current = epoch,
            Step::Wipe(epoch) => member.store.retain(|key| key.epoch != epoch),
            Step::Enter(_) => member.disk = Some(machine.rotation().clone()),
            Step::End(outcome) => {
                assert_ne!(outcome, Outcome::Superseded);
                (member.machine, member.disk) = (None, None);
            }
        }
        false
    }

    fn configure(&mut self, node: usize, wanted: &Wanted) {
        let (objects, is_api_up) = (self.objects.clone(), self.is_api_up);
        let member = &mut self.members[node];
        let own = wanted.identities.iter().filter_map(|own| {
            let key = member.store.iter().find(|key| key.epoch == own.epoch)?;
            Some((*key, own.is_withdrawn))
        });
        member.tunnel.own = own.collect();
        for (peer, object) in objects.iter().enumerate().filter(|(peer, _)| *peer != node && is_api_up) {
            let record = member.records.entry(peer).or_default();
            for key in [Some(object.key), object.next].into_iter().flatten() {
                record.retain(|known| known.epoch != key.epoch);
                record.push(key);
            }
            record.sort_by_key(|key| key.epoch);
            let before = record.iter().rev().filter(|key| key.epoch < object.key.epoch);
            let retired = before.take(2).map(|key| (*key, true));
            let keys = [(object.key, false)].into_iter().chain(object.next.map(|key| (key, false)));
            let mut keys: Vec<(Key, bool)> = keys.chain(retired).collect();
            if let Some(next) = object.next {
                member.next_keys.insert(peer, next);
            }
            let withdrawn = member.next_keys.get(&peer).map(|key| (*key, true));
            let is_other = |next: &Key| keys.iter().all(|(key, _)| key.epoch != next.epoch);
            let withdrawn = withdrawn.filter(|(next, _)| is_other(next));
            keys.extend(withdrawn);
            member.tunnel.peers.insert(peer, keys);
        }
        member.tunnel.prune();
    }

    fn publish(&mut self, node: usize, wanted: &Wanted) {
        let member = &self.members[node];
        let key = |epoch| member.store.iter().find(|key| key.epoch == epoch).copied();
        if let Some(current) = key(wanted.published).filter(|_| self.is_api_up) {
            self.objects[node] = Object { key: current, next: wanted.next.and_then(key) };
            for shown in [Some(current), self.objects[node].next].into_iter().flatten() {
                let has = member.tunnel.own.iter().any(|(key, _)| *key == shown);
                assert!(has, "node {node} publishes a key that its tunnel lacks");
            }
        }
    }

    /// Each end begins what it prefers to the session that it sends by, and renews that when it is 120 s old.
    fn handshakes(&mut self) {
        let count = self.members.len();
        for (a, b) in (0..count).flat_map(|a| (0..count).filter(move |b| *b != a).map(move |b| (a, b))) {
            let tunnel = &self.members[a].tunnel;
            if !tunnel.is_up || !self.members[b].tunnel.is_up {
                continue;
            }
            let sending = tunnel.sending(b);
            let better = |pair: &(Key, Key)| {
                let at = sending.and_then(|session| tunnel.preference(b, session.own, session.peer));
                tunnel.preference(b, pair.0, pair.1) > at
            };
            let mut pairs: Vec<_> = tunnel.pairs(b).into_iter().filter(better).collect();
            pairs.extend(
                sending
                    .filter(|session| session.is_initiator && self.now >= session.created + 120)
                    .map(|session| (session.own, session.peer))
                    .filter(|pair| tunnel.pairs(b).contains(pair)),
            );
            for (own, theirs) in pairs {
                if self.members[b].tunnel.answers(a, theirs, own) {
                    self.establish(a, b, own, theirs);
                    // Without a session it begins with all pairs at once.
                    if sending.is_some() {
                        break;
                    }
                }
            }
        }
    }

    fn establish(&mut self, a: usize, b: usize, own: Key, theirs: Key) {
        let created = self.now;
        for (at, peer, own, theirs, is_initiator) in [(a, b, own, theirs, true), (b, a, theirs, own, false)] {
            let sessions = self.members[at].tunnel.sessions.entry(peer).or_default();
            sessions.retain(|session| (session.own, session.peer) != (own, theirs));
            sessions.push(Session { own, peer: theirs, created, is_initiator });
        }
    }

    fn expire(&mut self) {
        let now = self.now;
        for sessions in self.members.iter_mut().flat_map(|member| member.tunnel.sessions.values_mut()) {
            sessions.retain(|session| now < session.created + 180);
        }
    }

    /// All is up again: everything ends well within the lives of a few sessions.
    fn recover(&mut self) {
        self.is_api_up = true;
        for node in 0..self.members.len() {
            self.start_agent(node);
        }
        // The longest deadline, an abort's patience, and the sessions that then have to expire.
        self.pass(300 + 60 + 2 * 190 + 60);
        for (node, member) in self.members.iter().enumerate() {
            assert_eq!(member.machine, None, "the rotation of node {node} goes on");
            assert_eq!(member.store.len(), 1, "node {node}: {:?}", member.store);
            assert_eq!(member.store[0].epoch, member.current);
            assert_eq!(self.objects[node], Object { key: member.store[0], next: None });
        }
        assert!(self.talking().values().all(|talks| *talks), "{:?}", self.talking());
    }
}

const COUNT: usize = 3;

fn event() -> impl Strategy<Value = Event> {
    let node = 0..COUNT;
    prop_oneof![
        4 => (node.clone(), 0..300_u64).prop_map(|(node, patience)| Event::Rotate(node, patience)),
        2 => node.clone().prop_map(Event::Abort),
        1 => node.clone().prop_map(Event::AgentStops),
        2 => node.clone().prop_map(Event::AgentStarts),
        2 => (node.clone(), 0..12_usize).prop_map(|(node, steps)| Event::AgentDiesIn(node, steps)),
        1 => node.prop_map(Event::TunnelRestarts),
        1 => Just(Event::ApiStops),
        2 => Just(Event::ApiStarts),
        4 => (1..20_u64).prop_map(Event::Pass),
        2 => (1..400_u64).prop_map(Event::Pass),
    ]
}

/// A few schedules, or as many as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let all = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { all.cases } else { 128 };
    ProptestConfig { cases, ..all }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_schedule_parts_two_nodes_that_talk(events in prop::collection::vec(event(), 0..40)) {
        let mut fleet = Fleet::new(COUNT);
        for event in events {
            fleet.event(event);
        }
        fleet.recover();
    }
}
