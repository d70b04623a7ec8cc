//! Rules, and a builder whose methods read like `nft`'s language.

use std::net::IpAddr;

use super::expression::{
    Comparison, Conntrack, End, Expression, Ip, Meta, NatKind, PayloadBase, Register, Verdict,
};

/// A rule: its expressions in order, and a comment for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Shown by `nft list`; at most 128 bytes.
    pub comment: Option<String>,
    /// What it does.
    pub expressions: Vec<Expression>,
}

/// Length of an interface name in nftables' registers.
const IFNAMSIZ: usize = 16;

impl Rule {
    /// An empty rule, which matches everything and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// Adds an expression.
    #[must_use]
    pub fn with(mut self, expression: Expression) -> Self {
        self.expressions.push(expression);
        self
    }

    /// If something known of the packet equals `value`.
    #[must_use]
    pub fn meta(self, key: Meta, value: impl Into<Vec<u8>>) -> Self {
        self.with(Expression::Meta { key, to: Register::FIRST }).compare(Comparison::Equal, value)
    }

    /// If something known of the packet differs from `value`.
    #[must_use]
    pub fn meta_not(self, key: Meta, value: impl Into<Vec<u8>>) -> Self {
        self.with(Expression::Meta { key, to: Register::FIRST }).compare(Comparison::NotEqual, value)
    }

    /// If it came by the device with this index.
    #[must_use]
    pub fn iif(self, index: u32) -> Self {
        self.meta(Meta::Iif, index.to_ne_bytes())
    }

    /// If it leaves by the device with this index.
    #[must_use]
    pub fn oif(self, index: u32) -> Self {
        self.meta(Meta::Oif, index.to_ne_bytes())
    }

    /// If it came by a device of this group.
    #[must_use]
    pub fn iif_group(self, group: u32) -> Self {
        self.meta(Meta::IifGroup, group.to_ne_bytes())
    }

    /// If it leaves by a device of this group.
    #[must_use]
    pub fn oif_group(self, group: u32) -> Self {
        self.meta(Meta::OifGroup, group.to_ne_bytes())
    }

    /// If it came by the device of this name.
    #[must_use]
    pub fn iif_name(self, name: &str) -> Self {
        self.meta(Meta::IifName, padded(name))
    }

    /// If it leaves by the device of this name.
    #[must_use]
    pub fn oif_name(self, name: &str) -> Self {
        self.meta(Meta::OifName, padded(name))
    }

    /// If it is of this IP version; for tables of family inet.
    #[must_use]
    pub fn ip(self, ip: Ip) -> Self {
        self.meta(Meta::NfProto, [ip.nfproto()])
    }

    /// If Ethernet says that it is of this type; for tables of family netdev.
    #[must_use]
    pub fn ethertype(self, ethertype: u16) -> Self {
        self.meta(Meta::Protocol, ethertype.to_be_bytes())
    }

    /// If its transport protocol is this (`IPPROTO_*`).
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        self.meta(Meta::L4Proto, [protocol])
    }

    /// Loads bytes of the packet.
    #[must_use]
    pub fn load(self, base: PayloadBase, offset: u32, length: u32) -> Self {
        self.with(Expression::Payload { base, offset, length, to: Register::FIRST })
    }

    /// If bytes of the packet equal `value`.
    #[must_use]
    pub fn payload(self, base: PayloadBase, offset: u32, value: impl Into<Vec<u8>>) -> Self {
        let value = value.into();
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.load(base, offset, length).compare(Comparison::Equal, value)
    }

    /// If bytes of the packet differ from `value`.
    #[must_use]
    pub fn payload_not(self, base: PayloadBase, offset: u32, value: impl Into<Vec<u8>>) -> Self {
        let value = value.into();
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.load(base, offset, length).compare(Comparison::NotEqual, value)
    }

    /// If bytes of the packet equal `value` where `mask` has ones.
    #[must_use]
    pub fn payload_masked(self, base: PayloadBase, offset: u32, mask: Vec<u8>, value: Vec<u8>) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.load(base, offset, length).mask(mask).compare(Comparison::Equal, value)
    }

    /// If a set has these bytes of the packet.
    #[must_use]
    pub fn payload_in(self, base: PayloadBase, offset: u32, length: u32, set: &str) -> Self {
        self.load(base, offset, length).lookup(set, false)
    }

    /// If a set has one of the packet's addresses. In a table of family inet, [`ip`](Self::ip) comes first.
    #[must_use]
    pub fn address_in(self, ip: Ip, end: End, set: &str) -> Self {
        let (offset, length) = ip.address(end);
        self.load(PayloadBase::Network, offset, length).lookup(set, false)
    }

    /// If a set does not have one of the packet's addresses.
    #[must_use]
    pub fn address_not_in(self, ip: Ip, end: End, set: &str) -> Self {
        let (offset, length) = ip.address(end);
        self.load(PayloadBase::Network, offset, length).lookup(set, true)
    }

    /// If one of the packet's addresses is this.
    #[must_use]
    pub fn address(self, end: End, address: IpAddr) -> Self {
        let (offset, _) = Ip::of(address).address(end);
        self.payload(PayloadBase::Network, offset, octets(address))
    }

    /// Sets the packet's priority to what was loaded.
    #[must_use]
    pub fn set_priority(self) -> Self {
        self.with(Expression::MetaSet { key: Meta::Priority, from: Register::FIRST })
    }

    /// Sets these bits of the packet's mark, and leaves the others as they are.
    #[must_use]
    pub fn mark(self, bits: u32) -> Self {
        let (from, to) = (Register::FIRST, Register::FIRST);
        let (mask, xor) = ((!bits).to_ne_bytes().to_vec(), bits.to_ne_bytes().to_vec());
        self.with(Expression::Meta { key: Meta::Mark, to })
            .with(Expression::Bitwise { from, to, mask, xor })
            .with(Expression::MetaSet { key: Meta::Mark, from })
    }

    /// If the connection's state has one of these bits.
    #[must_use]
    pub fn ct_state(self, bits: u32) -> Self {
        self.with(Expression::Conntrack { key: Conntrack::State, to: Register::FIRST })
            .mask(bits.to_ne_bytes().to_vec())
            .compare(Comparison::NotEqual, [0; 4])
    }

    /// If the packet's mark has one of these bits.
    #[must_use]
    pub fn marked(self, bits: u32) -> Self {
        self.with(Expression::Meta { key: Meta::Mark, to: Register::FIRST })
            .mask(bits.to_ne_bytes().to_vec())
            .compare(Comparison::NotEqual, [0; 4])
    }

    /// If the packet's priority has one of these bits.
    #[must_use]
    pub fn prioritized(self, bits: u32) -> Self {
        self.with(Expression::Meta { key: Meta::Priority, to: Register::FIRST })
            .mask(bits.to_ne_bytes().to_vec())
            .compare(Comparison::NotEqual, [0; 4])
    }

    /// If the packet goes this way of its connection ([`ct_direction`](super::ct_direction)). Never without a conntrack entry:
    /// not for packets that are invalid or untracked.
    #[must_use]
    pub fn ct_direction(self, direction: u8) -> Self {
        self.with(Expression::Conntrack { key: Conntrack::Direction, to: Register::FIRST })
            .compare(Comparison::Equal, [direction])
    }

    /// If the connection's status has one of these bits ([`ct_status`](super::ct_status)). Never without a conntrack entry.
    #[must_use]
    pub fn ct_status(self, bits: u32) -> Self {
        self.with(Expression::Conntrack { key: Conntrack::Status, to: Register::FIRST })
            .mask(bits.to_ne_bytes().to_vec())
            .compare(Comparison::NotEqual, [0; 4])
    }

    /// Counts in the rule itself.
    #[must_use]
    pub fn counted(self) -> Self {
        self.with(Expression::Counter)
    }

    /// Whether it is for every packet: it asks for nothing.
    #[must_use]
    pub fn is_unconditional(&self) -> bool {
        self.expressions.iter().all(|expression| match expression {
            Expression::Counter
            | Expression::NamedCounter(_)
            | Expression::Verdict(_)
            | Expression::Reject { .. }
            | Expression::Target(_) => true,
            Expression::Match(name) => name == "comment",
            Expression::Unknown(name) => name == "log",
            _ => false,
        })
    }

    /// Whether no packet comes to the rules behind it in its chain. Where it leads to another chain is not followed.
    #[must_use]
    pub fn ends_chain(&self) -> bool {
        let decides = match self.expressions.last() {
            Some(Expression::Verdict(verdict)) => {
                matches!(verdict, Verdict::Accept | Verdict::Drop | Verdict::Return | Verdict::Goto(_))
            }
            Some(Expression::Reject { .. }) => true,
            Some(Expression::Target(name)) => name == "REJECT",
            _ => false,
        };
        decides && self.is_unconditional()
    }

    /// Whether it leads to the chain of this name.
    #[must_use]
    pub fn leads_to(&self, chain: &str) -> bool {
        self.leads().any(|to| to == chain)
    }

    /// The chains that it leads to, without those of verdict maps.
    pub fn leads(&self) -> impl Iterator<Item = &str> {
        self.expressions.iter().filter_map(|expression| match expression {
            Expression::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => Some(to.as_str()),
            _ => None,
        })
    }

    /// Counts in the named counter.
    #[must_use]
    pub fn count(self, counter: impl Into<String>) -> Self {
        self.with(Expression::NamedCounter(counter.into()))
    }

    /// Accepts.
    #[must_use]
    pub fn accept(self) -> Self {
        self.with(Expression::Verdict(Verdict::Accept))
    }

    /// Drops.
    #[must_use]
    pub fn drop(self) -> Self {
        self.with(Expression::Verdict(Verdict::Drop))
    }

    /// Goes to a chain and comes back.
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.with(Expression::Verdict(Verdict::Jump(chain.into())))
    }

    /// Goes to a chain.
    #[must_use]
    pub fn goto(self, chain: impl Into<String>) -> Self {
        self.with(Expression::Verdict(Verdict::Goto(chain.into())))
    }

    /// Goes back to the chain that jumped here.
    #[must_use]
    pub fn end(self) -> Self {
        self.with(Expression::Verdict(Verdict::Return))
    }

    /// Translates the source to the address of the device it leaves by.
    #[must_use]
    pub fn masquerade(self, flags: u32) -> Self {
        self.with(Expression::Masquerade { flags })
    }

    /// Translates the source to `address`.
    #[must_use]
    pub fn snat(self, address: IpAddr, flags: u32) -> Self {
        self.nat(NatKind::Source, address, None, flags)
    }

    /// Translates the destination to `address`, and the port if one is given.
    #[must_use]
    pub fn dnat(self, address: IpAddr, port: Option<u16>) -> Self {
        self.nat(NatKind::Destination, address, port, 0)
    }

    fn nat(self, kind: NatKind, address: IpAddr, port: Option<u16>, flags: u32) -> Self {
        /// After the four that an IPv6 address takes.
        const SECOND: Register = Register(4);
        let mut rule = self.with(Expression::Load { to: Register::FIRST, value: octets(address) });
        if let Some(port) = port {
            rule = rule.with(Expression::Load { to: SECOND, value: port.to_be_bytes().to_vec() });
        }
        let (address, ip) = (Some(Register::FIRST), Ip::of(address));
        rule.with(Expression::Nat { kind, ip, address, port: port.map(|_| SECOND), flags })
    }

    /// If what was loaded, masked, ... compares so with `value`.
    #[must_use]
    pub fn compare(self, operation: Comparison, value: impl Into<Vec<u8>>) -> Self {
        self.with(Expression::Compare { from: Register::FIRST, operation, value: value.into() })
    }

    /// If the set has what was loaded, or has it not.
    #[must_use]
    pub fn lookup(self, set: &str, inverted: bool) -> Self {
        self.with(Expression::Lookup { set: set.into(), from: Register::FIRST, to: None, inverted })
    }

    fn mask(self, mask: Vec<u8>) -> Self {
        let (from, to, xor) = (Register::FIRST, Register::FIRST, vec![0; mask.len()]);
        self.with(Expression::Bitwise { from, to, mask, xor })
    }
}

/// The bytes of an address in network order.
#[must_use]
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An interface name as sets and comparisons hold it.
#[must_use]
pub fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}
