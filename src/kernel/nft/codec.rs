//! Expressions to and from netlink attributes.

use std::time::Duration;

use super::expression::{
    Comparison, Conntrack, ConntrackTuple, Expression, FibResult, Ip, Meta, NatKind, Numgen, PayloadBase,
    Register, Reject, SetOperation, Verdict,
};
use super::message::{DATA_VALUE, DATA_WITH_VERDICT};
use super::wire::{Writer, attributes, be32, be64, find, milliseconds, text};

const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;
const COUNTER_OBJECT: u32 = 1;
/// Flags of nat that the kernel derives from which registers are given.
const NAT_DERIVED: u32 = 0b11;

/// Writes `expressions` as elements of a list.
pub(super) fn encode(out: &mut Writer, expressions: &[Expression]) {
    const ELEMENT: u16 = 1;
    for expression in expressions {
        out.nest(ELEMENT, |out| {
            out.put_str(NAME, name(expression));
            out.nest(DATA, |out| encode_data(out, expression));
        });
    }
}

fn name(expression: &Expression) -> &str {
    match expression {
        Expression::Meta { .. } | Expression::MetaSet { .. } => "meta",
        Expression::Payload { .. } => "payload",
        Expression::Compare { .. } => "cmp",
        Expression::Bitwise { .. } => "bitwise",
        Expression::Lookup { .. } | Expression::VerdictMap { .. } => "lookup",
        Expression::Load { .. } | Expression::Verdict(_) => "immediate",
        Expression::Counter => "counter",
        Expression::NamedCounter(_) => "objref",
        Expression::Conntrack { .. } | Expression::ConntrackTuple { .. } => "ct",
        Expression::Dynset { .. } => "dynset",
        Expression::Nat { .. } => "nat",
        Expression::Masquerade { .. } => "masq",
        Expression::Fib { .. } => "fib",
        Expression::Reject { .. } => "reject",
        Expression::Limit { .. } => "limit",
        Expression::Numgen { .. } => "numgen",
        Expression::Notrack => "notrack",
        Expression::Match(_) => "match",
        Expression::Target(_) => "target",
        Expression::Unknown(name) => name,
    }
}

fn encode_data(out: &mut Writer, expression: &Expression) {
    match expression {
        Expression::Meta { key, to } => numbers(out, &[(1, to.number()), (2, key.number())]),
        Expression::MetaSet { key, from } => numbers(out, &[(2, key.number()), (3, from.number())]),
        Expression::Payload { base, offset, length, to } => {
            numbers(out, &[(1, to.number()), (2, base.number()), (3, *offset), (4, *length)]);
        }
        Expression::Compare { from, operation, value: bytes } => {
            numbers(out, &[(1, from.number()), (2, operation.number())]);
            value(out, 3, bytes);
        }
        Expression::Bitwise { from, to, mask, xor } => {
            let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
            numbers(out, &[(1, from.number()), (2, to.number()), (3, length)]);
            value(out, 4, mask);
            value(out, 5, xor);
        }
        Expression::Lookup { set, from, to, inverted } => {
            out.put_str(1, set);
            numbers(out, &[(2, from.number())]);
            to.iter().for_each(|to| out.put_u32(3, to.number()));
            numbers(out, if *inverted { &[(5, 1)] } else { &[] });
        }
        Expression::VerdictMap { set, from } => {
            out.put_str(1, set);
            numbers(out, &[(2, from.number()), (3, VERDICT_REGISTER)]);
        }
        Expression::Load { to, value: bytes } => {
            numbers(out, &[(1, to.number())]);
            value(out, 2, bytes);
        }
        Expression::Verdict(verdict) => {
            numbers(out, &[(1, VERDICT_REGISTER)]);
            out.nest(2, |out| encode_verdict(out, verdict));
        }
        Expression::NamedCounter(name) => {
            numbers(out, &[(1, COUNTER_OBJECT)]);
            out.put_str(2, name);
        }
        Expression::Conntrack { key, to } => numbers(out, &[(1, to.number()), (2, key.number())]),
        Expression::ConntrackTuple { key, reply, to } => {
            numbers(out, &[(1, to.number()), (2, key.number())]);
            out.put(3, &[u8::from(*reply)]);
        }
        Expression::Dynset { set, operation, key, data, timeout } => {
            out.put_str(1, set);
            numbers(out, &[(3, operation.number()), (4, key.number())]);
            data.iter().for_each(|data| out.put_u32(5, data.number()));
            timeout.iter().for_each(|timeout| out.put_u64(6, milliseconds(*timeout)));
        }
        Expression::Nat { kind, ip, address, port, flags } => {
            numbers(out, &[(1, kind.number()), (2, ip.nfproto().into())]);
            address.iter().for_each(|register| out.put_u32(3, register.number()));
            port.iter().for_each(|register| out.put_u32(5, register.number()));
            nonzero(out, 7, *flags);
        }
        Expression::Masquerade { flags } => nonzero(out, 1, *flags),
        Expression::Fib { result, flags, to } => {
            numbers(out, &[(1, to.number()), (2, result.number()), (3, *flags)]);
        }
        Expression::Reject { kind, code } => {
            out.put_u32(1, kind.number());
            out.put(2, &[*code]);
        }
        Expression::Limit { rate, unit, burst, over } => {
            out.put_u64(1, *rate);
            out.put_u64(2, *unit);
            numbers(out, &[(3, *burst), (4, 0), (5, u32::from(*over))]);
        }
        Expression::Numgen { kind, modulus, offset, to } => {
            numbers(out, &[(1, to.number()), (2, *modulus), (3, kind.number()), (4, *offset)]);
        }
        Expression::Match(name) | Expression::Target(name) => out.put_str(1, name),
        Expression::Counter | Expression::Notrack | Expression::Unknown(_) => {}
    }
}

fn numbers(out: &mut Writer, values: &[(u16, u32)]) {
    for (kind, number) in values {
        out.put_u32(*kind, *number);
    }
}

fn nonzero(out: &mut Writer, kind: u16, number: u32) {
    if number != 0 {
        out.put_u32(kind, number);
    }
}

fn value(out: &mut Writer, kind: u16, bytes: &[u8]) {
    out.nest(kind, |out| out.put(DATA_VALUE, bytes));
}

/// Writes a verdict as the content of a data attribute.
pub(super) fn encode_verdict(out: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0_i32, None),
        Verdict::Accept => (1, None),
        Verdict::Continue => (-1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    out.nest(DATA_WITH_VERDICT, |out| {
        out.put_u32(1, code.cast_unsigned());
        chain.iter().for_each(|chain| out.put_str(2, chain));
    });
}

/// Reads the content of a data attribute that may be a verdict.
pub(super) fn decode_verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = find(data, DATA_WITH_VERDICT)?;
    let chain = || find(verdict, 2).map(text);
    Some(match be32(find(verdict, 1)?)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

/// Reads the content of a data attribute that may be a value.
pub(super) fn decode_value(data: &[u8]) -> Option<Vec<u8>> {
    find(data, DATA_VALUE).map(<[u8]>::to_vec)
}

/// Reads a list of expressions.
pub(super) fn decode(list: &[u8]) -> Vec<Expression> {
    let elements = attributes(list).map(|(_, element)| element).filter(|element| !changes_nothing(element));
    elements.map(decode_one).collect()
}

/// `nft` turns round the bytes of a protocol in a key of ranges, which is one byte.
fn changes_nothing(element: &[u8]) -> bool {
    const LENGTH: u16 = 4;
    is_named(element, NAME, "byteorder")
        && find(element, DATA).and_then(|data| Fields(data).number(LENGTH)).is_some_and(|length| length <= 1)
}

/// The text of the match `comment`, in which iptables keeps comments.
pub(super) fn comment_match(list: &[u8]) -> Option<String> {
    const MATCH_NAME: u16 = 1;
    const MATCH_INFO: u16 = 3;
    let matches =
        attributes(list).map(|(_, element)| element).filter(|element| is_named(element, NAME, "match"));
    let infos = matches
        .filter_map(|element| find(element, DATA))
        .filter(|data| is_named(data, MATCH_NAME, "comment"));
    infos.filter_map(|data| find(data, MATCH_INFO)).map(text).next()
}

fn is_named(attributes: &[u8], kind: u16, name: &str) -> bool {
    find(attributes, kind).is_some_and(|found| text(found) == name)
}

fn decode_one(element: &[u8]) -> Expression {
    let name = find(element, NAME).map(text).unwrap_or_default();
    let data = find(element, DATA).unwrap_or_default();
    decode_data(&name, &Fields(data)).unwrap_or(Expression::Unknown(name))
}

/// Typed access to the attributes of one expression.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn number(&self, kind: u16) -> Option<u32> {
        be32(find(self.0, kind)?)
    }

    fn wide(&self, kind: u16) -> Option<u64> {
        be64(find(self.0, kind)?)
    }

    fn register(&self, kind: u16) -> Option<Register> {
        Register::from_number(self.number(kind)?)
    }

    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        decode_value(find(self.0, kind)?)
    }

    fn text(&self, kind: u16) -> Option<String> {
        find(self.0, kind).map(text)
    }
}

fn decode_data(name: &str, fields: &Fields<'_>) -> Option<Expression> {
    Some(match name {
        "meta" => decode_meta(fields)?,
        "payload" => Expression::Payload {
            base: PayloadBase::from_number(fields.number(2)?)?,
            offset: fields.number(3)?,
            length: fields.number(4)?,
            to: fields.register(1)?,
        },
        "cmp" => Expression::Compare {
            from: fields.register(1)?,
            operation: Comparison::from_number(fields.number(2)?)?,
            value: fields.value(3)?,
        },
        "bitwise" if fields.number(6).unwrap_or(0) == 0 => Expression::Bitwise {
            from: fields.register(1)?,
            to: fields.register(2)?,
            mask: fields.value(4)?,
            xor: fields.value(5)?,
        },
        "lookup" => decode_lookup(fields)?,
        "immediate" if fields.number(1)? == VERDICT_REGISTER => {
            Expression::Verdict(decode_verdict(find(fields.0, 2)?)?)
        }
        "immediate" => Expression::Load { to: fields.register(1)?, value: fields.value(2)? },
        "counter" => Expression::Counter,
        "objref" if fields.number(1)? == COUNTER_OBJECT => Expression::NamedCounter(fields.text(2)?),
        "ct" => decode_conntrack(fields)?,
        "dynset" => decode_dynset(fields)?,
        "nat" => decode_nat(fields)?,
        "masq" if find(fields.0, 2).is_none() => {
            Expression::Masquerade { flags: fields.number(1).unwrap_or(0) }
        }
        "fib" => Expression::Fib {
            result: FibResult::from_number(fields.number(2)?)?,
            flags: fields.number(3)?,
            to: fields.register(1)?,
        },
        "reject" => Expression::Reject {
            kind: Reject::from_number(fields.number(1)?)?,
            code: find(fields.0, 2).and_then(|code| code.first().copied()).unwrap_or(0),
        },
        "limit" if fields.number(4).unwrap_or(0) == 0 => Expression::Limit {
            rate: fields.wide(1)?,
            unit: fields.wide(2)?,
            burst: fields.number(3)?,
            over: fields.number(5).unwrap_or(0) == 1,
        },
        "numgen" => Expression::Numgen {
            kind: Numgen::from_number(fields.number(3)?)?,
            modulus: fields.number(2)?,
            offset: fields.number(4).unwrap_or(0),
            to: fields.register(1)?,
        },
        "notrack" => Expression::Notrack,
        "match" => Expression::Match(fields.text(1)?),
        "target" => Expression::Target(fields.text(1)?),
        _ => return None,
    })
}

fn decode_meta(fields: &Fields<'_>) -> Option<Expression> {
    let key = Meta::from_number(fields.number(2)?)?;
    Some(match fields.register(3) {
        Some(from) => Expression::MetaSet { key, from },
        None => Expression::Meta { key, to: fields.register(1)? },
    })
}

fn decode_lookup(fields: &Fields<'_>) -> Option<Expression> {
    let (set, from) = (fields.text(1)?, fields.register(2)?);
    if fields.number(3) == Some(VERDICT_REGISTER) {
        return Some(Expression::VerdictMap { set, from });
    }
    Some(Expression::Lookup {
        set,
        from,
        to: fields.register(3),
        inverted: fields.number(5).unwrap_or(0) & 1 == 1,
    })
}

fn decode_conntrack(fields: &Fields<'_>) -> Option<Expression> {
    let (key, to) = (fields.number(2)?, fields.register(1)?);
    Some(match find(fields.0, 3) {
        None => Expression::Conntrack { key: Conntrack::from_number(key)?, to },
        Some(direction) => Expression::ConntrackTuple {
            key: ConntrackTuple::from_number(key)?,
            reply: *direction.first()? == 1,
            to,
        },
    })
}

/// Those with expressions for each element, or inverted, are not known.
fn decode_dynset(fields: &Fields<'_>) -> Option<Expression> {
    const FLAGS: u16 = 9;
    (fields.number(FLAGS).unwrap_or(0) == 0).then_some(())?;
    Some(Expression::Dynset {
        set: fields.text(1)?,
        operation: SetOperation::from_number(fields.number(3)?)?,
        key: fields.register(4)?,
        data: fields.register(5),
        timeout: fields.wide(6).filter(|timeout| *timeout != 0).map(Duration::from_millis),
    })
}

/// Address and port ranges read back as their first value; this model never writes true ranges.
fn decode_nat(fields: &Fields<'_>) -> Option<Expression> {
    let ip = Ip::BOTH.into_iter().find(|ip| fields.number(2) == Some(ip.nfproto().into()))?;
    let single = |first, last| fields.register(last).is_none_or(|last| fields.register(first) == Some(last));
    (single(3, 4) && single(5, 6)).then_some(())?;
    Some(Expression::Nat {
        kind: NatKind::from_number(fields.number(1)?)?,
        ip,
        address: fields.register(3),
        port: fields.register(5),
        flags: fields.number(7).unwrap_or(0) & !NAT_DERIVED,
    })
}
