//! From the types of worker and device to those of the control API.

use crate::tunnel::api::{
    Applied, Counters, Event, Features, IdentityStatus, JoinState, JoinStatus, PeerState, PeerStatus,
    SessionStatus,
};
use crate::tunnel::device::config::PeerChanges;
use crate::tunnel::device::{
    DeviceCounters, DeviceEvent, IdentityReport, PeerCondition, PeerReport, SessionReport,
};
use crate::tunnel::io::joins::{Joining, Joins};
use crate::tunnel::worker::{Offloads, WorkerReport};

impl From<PeerChanges> for Applied {
    fn from(PeerChanges { added, changed, removed }: PeerChanges) -> Self {
        Self { added, changed, removed }
    }
}

impl From<DeviceEvent> for Event {
    fn from(event: DeviceEvent) -> Self {
        match event {
            DeviceEvent::Confirmed { peer, own_epoch, peer_epoch } => {
                Self::Confirmed { peer, own_epoch, peer_epoch }
            }
            DeviceEvent::Roamed { peer, endpoint } => Self::Roamed { peer, endpoint },
            DeviceEvent::Silent { peer } => Self::Silent { peer },
            DeviceEvent::Missed { count } => Self::Missed { count },
        }
    }
}

impl From<IdentityReport> for IdentityStatus {
    fn from(IdentityReport { epoch, public_key }: IdentityReport) -> Self {
        Self { epoch, public_key }
    }
}

/// What the worker makes use of.
pub(super) fn features(report: &WorkerReport) -> Features {
    let Offloads { tun_tso, tun_uso, udp_gso, udp_gro } = report.offloads;
    let Joins { tcp_v4, tcp_v6, udp } = report.joins;
    let joins =
        JoinStatus { tcp_v4: tcp_v4.into(), tcp_v6: tcp_v6.into(), udp: udp.into(), refused: report.resent };
    Features { tun_tso, tun_uso, udp_gso, udp_gro, joins: Some(joins) }
}

impl From<Joining> for JoinState {
    fn from(joining: Joining) -> Self {
        match joining {
            Joining::Nothing => Self::Nothing,
            Joining::Equal => Self::Equal,
            Joining::All => Self::All,
        }
    }
}

impl From<PeerCondition> for PeerState {
    fn from(condition: PeerCondition) -> Self {
        match condition {
            PeerCondition::Established => Self::Established,
            PeerCondition::Handshaking => Self::Handshaking,
            PeerCondition::Idle => Self::Idle,
            PeerCondition::NoEndpoint => Self::NoEndpoint,
        }
    }
}

impl From<PeerReport> for PeerStatus {
    fn from(peer: PeerReport) -> Self {
        Self {
            name: peer.name,
            state: peer.condition.into(),
            endpoint: peer.endpoint,
            source: peer.source,
            allowed_ips: peer.allowed_ips,
            persistent_keepalive: peer.persistent_keepalive,
            last_handshake: peer.last_handshake,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            preshared_key: peer.preshared_key,
            sessions: peer.sessions.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<SessionReport> for SessionStatus {
    fn from(session: SessionReport) -> Self {
        Self {
            own_epoch: session.own_epoch,
            peer_epoch: session.peer_epoch,
            public_key: session.public_key,
            confirmed: session.confirmed,
            sending: session.sending,
            last_handshake: session.last_handshake,
        }
    }
}

/// The device's counters and those of the process.
pub(super) fn counters(device: &DeviceCounters, worker_restarts: u64) -> Counters {
    Counters {
        no_peer: device.no_peer,
        no_session: device.no_session,
        invalid_packet: device.invalid_packet,
        unknown_datagram: device.unknown_datagram,
        bad_mac: device.bad_mac,
        replayed: device.replayed,
        wrong_source: device.wrong_source,
        under_load: device.under_load,
        send_errors: device.send_errors,
        worker_restarts,
    }
}
