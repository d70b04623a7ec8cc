//! The types of keys and values: nftables' data types, alone or concatenated.

/// The type of a key, or of one field of a concatenated key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A MAC address.
    Ether,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// The type of an ICMP message.
    IcmpType,
    /// A number in host order, four bytes, such as one drawn at random.
    Number,
    /// A packet mark.
    Mark,
    /// A packet priority: two numbers of two bytes, which nft shows as a class of a queueing discipline.
    Priority,
    /// An interface name, padded to 16 bytes.
    IfName,
    /// A type that this model does not know, by nftables' number.
    Unknown(u32),
}

impl Field {
    /// Number of the type in nftables' user space (its `enum datatypes`), length, network order.
    fn facts(self) -> (u32, usize, bool) {
        match self {
            Self::Ipv4 => (7, 4, true),
            Self::Ipv6 => (8, 16, true),
            Self::Ether => (9, 6, true),
            Self::Protocol => (12, 1, true),
            Self::Port => (13, 2, true),
            Self::IcmpType => (14, 1, true),
            Self::Number => (4, 4, false),
            Self::Mark => (19, 4, false),
            Self::Priority => (23, 4, false),
            Self::IfName => (41, 16, false),
            Self::Unknown(number) => (number, 0, true),
        }
    }

    fn from_number(number: u32) -> Self {
        let known = [
            Self::Ipv4,
            Self::Ipv6,
            Self::Ether,
            Self::Protocol,
            Self::Port,
            Self::IcmpType,
            Self::Number,
            Self::Mark,
            Self::Priority,
            Self::IfName,
        ];
        known.into_iter().find(|field| field.facts().0 == number).unwrap_or(Self::Unknown(number))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.facts().1
    }

    /// Always false: every known type has a length.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    /// Registers of four bytes that a value takes.
    pub(super) fn registers(self) -> u8 {
        u8::try_from(self.len().div_ceil(4)).unwrap_or(u8::MAX)
    }

    pub(super) fn is_network_order(self) -> bool {
        self.facts().2
    }
}

/// The type of a key or of a value: one field, or several concatenated, each padded to four bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type(pub Vec<Field>);

impl Type {
    /// nftables' number for it: six bits a field.
    pub(super) fn number(&self) -> u32 {
        self.0.iter().fold(0, |number, field| number << 6 | field.facts().0)
    }

    pub(super) fn from_number(mut number: u32) -> Self {
        let mut fields = Vec::new();
        while number != 0 {
            fields.push(Field::from_number(number & 0x3f));
            number >>= 6;
        }
        fields.reverse();
        Self(fields)
    }

    /// Bytes of a value.
    pub(super) fn len(&self) -> usize {
        match self.0.as_slice() {
            [field] => field.len(),
            fields => fields.iter().map(|field| field.len().next_multiple_of(4)).sum(),
        }
    }

    pub(super) fn is_concatenation(&self) -> bool {
        self.0.len() > 1
    }
}

impl From<Field> for Type {
    fn from(field: Field) -> Self {
        Self(vec![field])
    }
}

impl<const N: usize> From<[Field; N]> for Type {
    fn from(fields: [Field; N]) -> Self {
        Self(fields.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_numbers_round_trip() {
        let concatenation = Type::from([Field::Ipv4, Field::Protocol, Field::Port]);
        assert_eq!((concatenation.number(), concatenation.len()), (0x730d, 12));
        assert_eq!(Type::from_number(0x730d), concatenation);
    }
}
