//! The expressions that rules are made of, in the kernel's own terms (`linux/netfilter/nf_tables.h`).

/// An IP version, and where its header keeps what rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Ip {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The version of `address`.
    #[must_use]
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// 4 or 6, to name things by.
    #[must_use]
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    #[must_use]
    pub fn nfproto(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Ethernet's type for it.
    #[must_use]
    pub fn ethertype(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }

    /// The type of its addresses in sets.
    #[must_use]
    pub fn field(self) -> super::Field {
        match self {
            Self::V4 => super::Field::Ipv4,
            Self::V6 => super::Field::Ipv6,
        }
    }

    /// Offset in the header and length of one of its addresses (RFC 791 and RFC 8200, section 3).
    #[must_use]
    pub fn address(self, end: End) -> (u32, u32) {
        match (self, end) {
            (Self::V4, End::Source) => (12, 4),
            (Self::V4, End::Destination) => (16, 4),
            (Self::V6, End::Source) => (8, 16),
            (Self::V6, End::Destination) => (24, 16),
        }
    }
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A register: 16 of four bytes each; longer values take the following ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// The first one.
    pub const FIRST: Self = Self(0);

    pub(super) fn number(self) -> u32 {
        8 + u32::from(self.0)
    }

    /// The kernel reports every fourth register under its old number, 1 to 4.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => u8::try_from((number - 1) * 4).ok().map(Self),
            8..=23 => u8::try_from(number - 8).ok().map(Self),
            _ => None,
        }
    }
}

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant = $number,)* }

        impl $name {
            pub(super) fn number(self) -> u32 {
                self as u32
            }

            pub(super) fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

numbered! {
    /// What is known of a packet beside its bytes.
    Meta {
        /// Ethernet's type, network order.
        Protocol = 1,
        /// The packet's priority, by which queueing disciplines classify it.
        Priority = 2,
        /// The packet's mark.
        Mark = 3,
        /// Index of the device it came by.
        Iif = 4,
        /// Index of the device it leaves by.
        Oif = 5,
        /// Name of the device it came by, 16 bytes.
        IifName = 6,
        /// Name of the device it leaves by, 16 bytes.
        OifName = 7,
        /// Family, one byte.
        NfProto = 15,
        /// Transport protocol, one byte.
        L4Proto = 16,
        /// Unicast, broadcast, multicast: one byte.
        PacketType = 19,
        /// Group of the device it came by.
        IifGroup = 21,
        /// Group of the device it leaves by.
        OifGroup = 22,
    }
}

numbered! {
    /// Where a payload offset counts from.
    PayloadBase {
        /// The frame.
        Link = 0,
        /// The IP (or ARP) header.
        Network = 1,
        /// The transport header.
        Transport = 2,
    }
}

numbered! {
    /// A comparison.
    Comparison {
        /// Equal.
        Equal = 0,
        /// Not equal.
        NotEqual = 1,
        /// Less, as a number in network order.
        Less = 2,
        /// Less or equal.
        LessOrEqual = 3,
        /// Greater.
        Greater = 4,
        /// Greater or equal.
        GreaterOrEqual = 5,
    }
}

numbered! {
    /// What is known of a packet's connection.
    Conntrack {
        /// A bit of [`ct_state`](super::ct_state).
        State = 0,
        /// 0 as the first packet, 1 the other way; one byte.
        Direction = 1,
        /// `IPS_*` bits.
        Status = 2,
        /// The connection's mark.
        Mark = 3,
    }
}

numbered! {
    /// A part of a connection's addressing in one of its directions.
    ConntrackTuple {
        /// Transport protocol, one byte.
        Protocol = 10,
        /// Source port, network order.
        SourcePort = 11,
        /// Destination port, network order.
        DestinationPort = 12,
        /// Source address.
        SourceV4 = 19,
        /// Destination address.
        DestinationV4 = 20,
        /// Source address.
        SourceV6 = 21,
        /// Destination address.
        DestinationV6 = 22,
    }
}

numbered! {
    /// What a packet does to an element of a dynamic set.
    SetOperation {
        /// Adds it. One that is there stays as it is.
        Add = 0,
        /// Adds it. One that is there gets its timeout again, and keeps its value.
        Update = 1,
        /// Deletes it, if it is there.
        Delete = 2,
    }
}

numbered! {
    /// Which end of a connection is translated.
    NatKind {
        /// Its source.
        Source = 0,
        /// Its destination.
        Destination = 1,
    }
}

numbered! {
    /// What a routing lookup gives.
    FibResult {
        /// Index of the output device.
        Oif = 1,
        /// Its name.
        OifName = 2,
        /// `RTN_*`: local, unicast, ...
        AddressType = 3,
    }
}

numbered! {
    /// How a packet is answered instead of passed.
    Reject {
        /// With an ICMP message of its own family.
        Icmp = 0,
        /// With a TCP reset.
        TcpReset = 1,
        /// With the ICMP message that fits its family.
        Icmpx = 2,
    }
}

numbered! {
    /// How a number is made.
    Numgen {
        /// 0, 1, 2, ...
        Incremental = 0,
        /// At random.
        Random = 1,
    }
}

/// `NFTA_FIB_F_DADDR`: [`Expression::Fib`] looks the destination up.
pub const FIB_DESTINATION: u32 = 1 << 1;

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: the port is drawn at random, so two packets seldom race for one.
pub const NAT_RANDOM_FULLY: u32 = 1 << 4;

/// Bits of [`Conntrack::State`].
pub mod ct_state {
    /// Belongs to nothing.
    pub const INVALID: u32 = 1;
    /// Seen in both directions.
    pub const ESTABLISHED: u32 = 2;
    /// An error about, or a companion of, another connection.
    pub const RELATED: u32 = 4;
    /// The first.
    pub const NEW: u32 = 8;
    /// Not tracked.
    pub const UNTRACKED: u32 = 64;
}

/// Values of [`Conntrack::Direction`] (`enum ip_conntrack_dir`).
pub mod ct_direction {
    /// As the connection's first packet.
    pub const ORIGINAL: u8 = 0;
    /// The other way.
    pub const REPLY: u8 = 1;
}

/// Bits of [`Conntrack::Status`] (`enum ip_conntrack_status`).
pub mod ct_status {
    /// Its destination is translated.
    pub const DST_NAT: u32 = 1 << 5;
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done with this hook's chain; later chains still see it.
    Accept,
    /// Drop.
    Drop,
    /// Go on with the next rule.
    Continue,
    /// Back to the chain that jumped here.
    Return,
    /// To that chain, and back.
    Jump(String),
    /// To that chain.
    Goto(String),
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the kernel's and named in nf_tables.h")]
pub enum Expression {
    /// Loads something known of the packet.
    Meta { key: Meta, to: Register },
    /// Sets something of the packet.
    MetaSet { key: Meta, from: Register },
    /// Loads bytes of the packet.
    Payload { base: PayloadBase, offset: u32, length: u32, to: Register },
    /// Goes on if the comparison holds.
    Compare { from: Register, operation: Comparison, value: Vec<u8> },
    /// `to = (from & mask) ^ xor`.
    Bitwise { from: Register, to: Register, mask: Vec<u8>, xor: Vec<u8> },
    /// Goes on if the set has the key; a map's value goes to `to`.
    Lookup { set: String, from: Register, to: Option<Register>, inverted: bool },
    /// Takes the verdict that a map has for the key; goes on if it has none.
    VerdictMap { set: String, from: Register },
    /// Loads a constant.
    Load { to: Register, value: Vec<u8> },
    /// Decides.
    Verdict(Verdict),
    /// Counts in the rule itself.
    Counter,
    /// Counts in a named counter.
    NamedCounter(String),
    /// Loads something known of the connection.
    Conntrack { key: Conntrack, to: Register },
    /// Loads a part of the connection's addressing, as its first packet or as the answers have it.
    ConntrackTuple { key: ConntrackTuple, reply: bool, to: Register },
    /// Changes an element of a dynamic set or map. The rule ends when an element does not fit.
    Dynset {
        set: String,
        operation: SetOperation,
        key: Register,
        data: Option<Register>,
        timeout: Option<std::time::Duration>,
    },
    /// Translates an address, and a port if there is one.
    Nat { kind: NatKind, ip: Ip, address: Option<Register>, port: Option<Register>, flags: u32 },
    /// Translates the source to the address of the device it leaves by.
    Masquerade { flags: u32 },
    /// Looks an address up in the routes; `flags` are `NFTA_FIB_F_*`.
    Fib { result: FibResult, flags: u32, to: Register },
    /// Drops with an answer.
    Reject { kind: Reject, code: u8 },
    /// Goes on while the rate (per `unit` seconds) is not exceeded, or while it is.
    Limit { rate: u64, unit: u64, burst: u32, over: bool },
    /// Makes a number below `modulus`, plus `offset`.
    Numgen { kind: Numgen, modulus: u32, offset: u32, to: Register },
    /// Leaves the packet out of connection tracking.
    Notrack,
    /// A match of iptables, by its name; what it asks for is not read, and none can be written.
    Match(String),
    /// A target of iptables, likewise.
    Target(String),
    /// One that this model does not know.
    Unknown(String),
}
