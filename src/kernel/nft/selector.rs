//! Keys of rules: what a rule loads, field by field, into consecutive registers, to look it up in a set or map.
//!
//! The same fields in the same order are the [`Type`](super::Type) of the set, and what [`Concat`](super::Concat)
//! builds its elements from.

use std::time::Duration;

use super::expression::{
    Conntrack, ConntrackTuple, End, Expression, Ip, Meta, NatKind, Numgen, PayloadBase, Register,
    SetOperation,
};
use super::field::Field;
use super::rule::Rule;

/// What a rule loads as one field of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// One of the packet's addresses. In a table of family inet, [`Rule::ip`] comes first.
    Address(Ip, End),
    /// One of the frame's MAC addresses.
    Ether(End),
    /// The transport protocol.
    Protocol,
    /// One of the ports of TCP, UDP, SCTP and their like.
    Port(End),
    /// The type of an ICMP message.
    IcmpType,
    /// The packet's mark.
    Mark,
    /// The packet's priority.
    Priority,
    /// The connection's mark.
    ConntrackMark,
    /// Name of the device it came by.
    IifName,
    /// Name of the device it leaves by.
    OifName,
    /// An address of the connection's first packet, before any translation.
    OriginalAddress(Ip, End),
    /// A port of the connection's first packet, before any translation. nft 1.0.6 lists it, but reads it back only
    /// where the listing names the protocol.
    OriginalPort(End),
    /// The transport protocol of the connection.
    OriginalProtocol,
    /// A random number below this.
    Random(u32),
}

impl Selector {
    /// The type of what is loaded.
    #[must_use]
    pub fn field(self) -> Field {
        match self {
            Self::Address(ip, _) | Self::OriginalAddress(ip, _) => ip.field(),
            Self::Ether(_) => Field::Ether,
            Self::Protocol | Self::OriginalProtocol => Field::Protocol,
            Self::Port(_) | Self::OriginalPort(_) => Field::Port,
            Self::IcmpType => Field::IcmpType,
            Self::Mark | Self::ConntrackMark => Field::Mark,
            Self::Priority => Field::Priority,
            Self::Random(_) => Field::Number,
            Self::IifName | Self::OifName => Field::IfName,
        }
    }

    fn load(self, to: Register) -> Expression {
        let payload = |base, (offset, length)| Expression::Payload { base, offset, length, to };
        let original = |key| Expression::ConntrackTuple { key, reply: false, to };
        match self {
            Self::Address(ip, end) => payload(PayloadBase::Network, ip.address(end)),
            Self::Ether(End::Destination) => payload(PayloadBase::Link, (0, 6)),
            Self::Ether(End::Source) => payload(PayloadBase::Link, (6, 6)),
            Self::Protocol => Expression::Meta { key: Meta::L4Proto, to },
            Self::Port(End::Source) => payload(PayloadBase::Transport, (0, 2)),
            Self::Port(End::Destination) => payload(PayloadBase::Transport, (2, 2)),
            Self::IcmpType => payload(PayloadBase::Transport, (0, 1)),
            Self::Mark => Expression::Meta { key: Meta::Mark, to },
            Self::Priority => Expression::Meta { key: Meta::Priority, to },
            Self::ConntrackMark => Expression::Conntrack { key: Conntrack::Mark, to },
            Self::IifName => Expression::Meta { key: Meta::IifName, to },
            Self::OifName => Expression::Meta { key: Meta::OifName, to },
            Self::OriginalAddress(Ip::V4, End::Source) => original(ConntrackTuple::SourceV4),
            Self::OriginalAddress(Ip::V4, End::Destination) => original(ConntrackTuple::DestinationV4),
            Self::OriginalAddress(Ip::V6, End::Source) => original(ConntrackTuple::SourceV6),
            Self::OriginalAddress(Ip::V6, End::Destination) => original(ConntrackTuple::DestinationV6),
            Self::OriginalPort(End::Source) => original(ConntrackTuple::SourcePort),
            Self::OriginalPort(End::Destination) => original(ConntrackTuple::DestinationPort),
            Self::OriginalProtocol => original(ConntrackTuple::Protocol),
            Self::Random(modulus) => Expression::Numgen { kind: Numgen::Random, modulus, offset: 0, to },
        }
    }
}

/// The register behind a value of this type that starts at `register`.
fn behind(register: Register, field: Field) -> Register {
    Register(register.0.saturating_add(field.registers()))
}

/// Where a value is loaded whose key ends at `behind`: where `nft` would, at a multiple of four, if it fits there.
fn value_register(behind: Register, value: &[Selector]) -> Register {
    const REGISTERS: u8 = 16;
    let length: u8 = value.iter().map(|selector| selector.field().registers()).sum();
    let aligned = behind.0.next_multiple_of(4);
    if aligned.saturating_add(length) <= REGISTERS { Register(aligned) } else { behind }
}

impl Rule {
    /// Loads fields into consecutive registers, from `first` on. Returns the register behind them, too.
    #[must_use]
    pub fn load_fields(mut self, first: Register, fields: &[Selector]) -> (Self, Register) {
        let mut to = first;
        for selector in fields {
            self = self.with(selector.load(to));
            to = behind(to, selector.field());
        }
        (self, to)
    }

    /// If a set has the fields, concatenated.
    #[must_use]
    pub fn in_set(self, fields: &[Selector], set: &str) -> Self {
        self.load_fields(Register::FIRST, fields).0.lookup(set, false)
    }

    /// If a set does not have the fields, concatenated.
    #[must_use]
    pub fn not_in_set(self, fields: &[Selector], set: &str) -> Self {
        self.load_fields(Register::FIRST, fields).0.lookup(set, true)
    }

    /// If a map has the fields, concatenated; its value is then loaded, from the first register on.
    #[must_use]
    pub fn map(self, fields: &[Selector], map: &str) -> Self {
        let (from, to) = (Register::FIRST, Some(Register::FIRST));
        let (rule, _) = self.load_fields(from, fields);
        rule.with(Expression::Lookup { set: map.into(), from, to, inverted: false })
    }

    /// Takes the verdict that a map has for the fields, concatenated; goes on if it has none. Without fields it looks
    /// up what is loaded, such as the value that [`map`](Self::map) found.
    #[must_use]
    pub fn vmap(self, fields: &[Selector], map: &str) -> Self {
        let from = Register::FIRST;
        self.load_fields(from, fields).0.with(Expression::VerdictMap { set: map.into(), from })
    }

    /// Translates the destination to the address and port, concatenated, that [`map`](Self::map) found.
    #[must_use]
    pub fn dnat_to_mapped(self, ip: Ip) -> Self {
        let (kind, address) = (NatKind::Destination, Register::FIRST);
        let port = Some(behind(address, ip.field()));
        self.with(Expression::Nat { kind, ip, address: Some(address), port, flags: 0 })
    }

    /// Changes the element of a dynamic set whose key are the fields, concatenated. Its timeout is the set's if none
    /// is given.
    #[must_use]
    pub fn change_set(
        self,
        operation: SetOperation,
        set: &str,
        fields: &[Selector],
        timeout: Option<Duration>,
    ) -> Self {
        self.change_map(operation, set, fields, &[], timeout)
    }

    /// Changes the element of a dynamic map whose key are the fields, concatenated; the value likewise. The kernel wants
    /// a value also to delete an element, and does not look at it.
    #[must_use]
    pub fn change_map(
        self,
        operation: SetOperation,
        map: &str,
        fields: &[Selector],
        value: &[Selector],
        timeout: Option<Duration>,
    ) -> Self {
        let (rule, behind) = self.load_fields(Register::FIRST, fields);
        let start = value_register(behind, value);
        let (rule, _) = rule.load_fields(start, value);
        let data = (!value.is_empty()).then_some(start);
        rule.with(Expression::Dynset { set: map.into(), operation, key: Register::FIRST, data, timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The register each field is loaded into.
    fn registers(fields: &[Selector]) -> Vec<u8> {
        let (rule, behind) = Rule::new().load_fields(Register::FIRST, fields);
        let to = rule.expressions.iter().map(|expression| match expression {
            Expression::Payload { to, .. }
            | Expression::Meta { to, .. }
            | Expression::Conntrack { to, .. }
            | Expression::ConntrackTuple { to, .. }
            | Expression::Numgen { to, .. } => to.0,
            other => panic!("{other:?} loads nothing"),
        });
        to.chain([behind.0]).collect()
    }

    #[test]
    fn fields_are_loaded_one_behind_the_other() {
        let service =
            |ip| [Selector::Address(ip, End::Destination), Selector::Protocol, Selector::Port(End::Source)];
        assert_eq!(registers(&service(Ip::V4)), [0, 1, 2, 3]);
        assert_eq!(registers(&service(Ip::V6)), [0, 4, 5, 6]);
        let others = [Selector::Ether(End::Source), Selector::IifName, Selector::Mark, Selector::Random(3)];
        assert_eq!(registers(&others), [0, 2, 6, 7, 8]);
    }

    #[test]
    fn a_maps_value_is_loaded_behind_the_key() {
        let client = |ip| Selector::Address(ip, End::Source);
        let (port, mark) = (Selector::Port(End::Destination), Selector::Mark);
        for (key, value, register) in [
            (vec![client(Ip::V4)], vec![client(Ip::V4), port], 4),
            (vec![client(Ip::V6)], vec![client(Ip::V6), port], 4),
            (vec![client(Ip::V6), mark], vec![client(Ip::V6), port], 8),
            // Here it would not fit at a multiple of four.
            (vec![client(Ip::V6), client(Ip::V6), port], vec![client(Ip::V6), port], 9),
        ] {
            let rule = Rule::new().change_map(SetOperation::Update, "affinity", &key, &value, None);
            let Some(Expression::Dynset { key: from, data, .. }) = rule.expressions.last() else {
                panic!("{rule:?}")
            };
            assert_eq!((from.0, *data), (0, Some(Register(register))));
            let Some(Expression::Payload { to, .. }) = rule.expressions.get(key.len()) else {
                panic!("{rule:?}")
            };
            assert_eq!(to.0, register);
        }
    }

    #[test]
    fn translation_takes_address_and_port_of_the_value() {
        for (ip, register) in [(Ip::V4, 1), (Ip::V6, 4)] {
            let rule = Rule::new().map(&[Selector::Protocol], "backend").dnat_to_mapped(ip);
            let Some(Expression::Nat { address, port, .. }) = rule.expressions.last() else {
                panic!("{rule:?}")
            };
            assert_eq!((*address, *port), (Some(Register(0)), Some(Register(register))));
        }
    }
}
