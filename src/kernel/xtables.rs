//! The table `filter` of the old iptables, which nftables does not show. Read as iptables reads it, never changed.

use std::io;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Socket, Type};

use super::nft::{End, Hook, Ip, Meta, PayloadBase, Policy, Rule};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; those of IPv6 are the same.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// The table's name as each request begins.
const NAME: [u8; 32] = *b"filter\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Length of `struct ipt_getinfo`, and where in it the chains begin, where their policies are, and the size of all.
const INFO: usize = 84;
const ENTRIES_AT: usize = 36;
const POLICIES_AT: usize = 56;
const SIZE_AT: usize = 80;
/// Length of `struct ipt_get_entries`, and where in it the size is.
const HEAD: usize = 40;
const HEAD_SIZE_AT: usize = 32;
/// How often the table may change between the two requests.
const ATTEMPTS: usize = 10;

/// A chain that packets enter by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Builtin {
    /// From where.
    pub hook: Hook,
    /// What becomes of packets that no rule picks.
    pub policy: Policy,
    /// The table's rules that accept, as nftables would have them, but for the matches of modules.
    pub rules: Vec<Rule>,
}

/// The chains of the table in the network namespace of the caller. Asking makes the table where there is none.
///
/// # Errors
/// As the system says; it takes CAP_NET_ADMIN.
pub fn filter(ip: Ip) -> io::Result<Vec<Builtin>> {
    let (domain, level) = match ip {
        Ip::V4 => (Domain::IPV4, libc::IPPROTO_IP),
        Ip::V6 => (Domain::IPV6, libc::IPPROTO_IPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, None)?;
    for _ in 0..ATTEMPTS {
        let mut info = request(INFO);
        ask(&socket, level, GET_INFO, &mut info)?;
        let mut entries = request(HEAD + number(&info, SIZE_AT).unwrap_or(0));
        entries[HEAD_SIZE_AT..][..4].copy_from_slice(&info[SIZE_AT..][..4]);
        match ask(&socket, level, GET_ENTRIES, &mut entries) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
            Ok(()) => return parse(ip, &info, &entries[HEAD..]).ok_or(io::ErrorKind::InvalidData.into()),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

fn request(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..NAME.len()].copy_from_slice(&NAME);
    bytes
}

/// The kernel reads the request from `bytes` and writes its answer over it.
fn ask(socket: &Socket, level: libc::c_int, option: libc::c_int, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "no crate that is here has these options")]
    // SAFETY: the kernel writes at most `length` bytes, which is how many there are; both pointers live through the call.
    let done = unsafe {
        let (to, length) = (bytes.as_mut_ptr().cast(), &raw mut length);
        libc::getsockopt(socket.as_raw_fd(), level, option, to, length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where an entry (`struct ipt_entry`, `struct ip6t_entry`) has what is looked at. Two addresses and two masks come first.
struct Layout {
    ip: Ip,
    /// Bytes of an address.
    address: usize,
    /// What is asked of a packet ends here, with a byte of what is inverted at `inverted`.
    asked: usize,
    inverted: usize,
    /// Offset of the target, and of the next entry behind it.
    target: usize,
    /// Length of an entry without matches.
    length: usize,
}

const V4: Layout = Layout { ip: Ip::V4, address: 4, asked: 84, inverted: 83, target: 88, length: 112 };
const V6: Layout = Layout { ip: Ip::V6, address: 16, asked: 136, inverted: 132, target: 140, length: 168 };

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Accept,
    Drop,
    Other,
}

struct Entry<'a> {
    bytes: &'a [u8],
    /// It is for every packet.
    always: bool,
    target: Target,
    /// Bytes to the next one.
    next: usize,
}

/// Nothing when the bytes are not what the kernel gives.
fn parse(ip: Ip, info: &[u8], entries: &[u8]) -> Option<Vec<Builtin>> {
    let layout = if ip == Ip::V4 { &V4 } else { &V6 };
    let rules = accepting(layout, entries)?;
    let builtin = |hook: Hook| {
        let at = |place: usize| number(info, place + 4 * usize::try_from(hook.number()).ok()?);
        let policy = policy(layout, entries, at(ENTRIES_AT)?, at(POLICIES_AT)?)?;
        Some(Builtin { hook, policy, rules: rules.clone() })
    };
    [Hook::Input, Hook::Forward, Hook::Output].into_iter().map(builtin).collect()
}

/// The policy, unless a rule for every packet comes before it. Where rules lead to other chains is not followed.
fn policy(layout: &Layout, entries: &[u8], mut at: usize, last: usize) -> Option<Policy> {
    loop {
        let entry = entry(layout, entries.get(at..)?)?;
        match entry.target {
            Target::Drop if entry.always => return Some(Policy::Drop),
            Target::Accept if entry.always => return Some(Policy::Accept),
            _ if at >= last => return None,
            _ => at += entry.next,
        }
    }
}

fn accepting(layout: &Layout, mut entries: &[u8]) -> Option<Vec<Rule>> {
    let mut rules = Vec::new();
    while !entries.is_empty() {
        let entry = entry(layout, entries)?;
        if entry.target == Target::Accept && entry.bytes[layout.inverted] == 0 {
            rules.push(rule(layout, entry.bytes).accept());
        }
        entries = &entries[entry.next..];
    }
    Some(rules)
}

fn entry<'a>(layout: &Layout, bytes: &'a [u8]) -> Option<Entry<'a>> {
    let offset = |at: usize| Some(usize::from(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let (at, next) = (offset(layout.target)?, offset(layout.target + 2)?);
    let target = bytes.get(at..next)?;
    let always = at == layout.length && bytes[..layout.asked].iter().all(|byte| *byte == 0);
    (at >= layout.length && next > at).then_some(Entry { bytes, always, target: self::target(target)?, next })
}

/// `struct xt_entry_target`: its length, its name (none for a verdict), its revision, and what is its own.
fn target(bytes: &[u8]) -> Option<Target> {
    let (name, own) = (bytes.get(2..31)?, bytes.get(32..)?);
    Some(match (name, own) {
        ([0, ..], own) => match i32::from_ne_bytes(own.get(..4)?.try_into().ok()?) {
            -1 => Target::Drop,
            -2 => Target::Accept,
            _ => Target::Other,
        },
        (name, _) if name.starts_with(b"REJECT\0") => Target::Drop,
        _ => Target::Other,
    })
}

fn rule(layout: &Layout, entry: &[u8]) -> Rule {
    /// Longest name of a device, with its end.
    const NAME: usize = 16;
    let size = layout.address;
    let mut rule = Rule::new();
    for (index, end) in [End::Source, End::Destination].into_iter().enumerate() {
        let (address, mask) = (&entry[index * size..][..size], &entry[(index + 2) * size..][..size]);
        if mask.iter().any(|byte| *byte != 0) {
            let (offset, _) = layout.ip.address(end);
            rule = rule.payload_masked(PayloadBase::Network, offset, mask.to_vec(), address.to_vec());
        }
    }
    for (index, key) in [Meta::IifName, Meta::OifName].into_iter().enumerate() {
        let names = &entry[4 * size..];
        let (name, mask) = (&names[index * NAME..][..NAME], &names[(index + 2) * NAME..][..NAME]);
        let length = mask.iter().take_while(|byte| **byte == u8::MAX).count();
        if length > 0 {
            rule = rule.meta(key, &name[..length]);
        }
    }
    rule
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let number = u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nft::{Expression, octets};

    /// An entry with a verdict, or with a target of that name; `ask` writes what it asks for.
    fn entry(layout: &Layout, target: Result<i32, &str>, ask: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut bytes = vec![0; layout.length + 40];
        ask(&mut bytes);
        let put = |bytes: &mut [u8], at: usize, number: usize| {
            bytes[at..at + 2].copy_from_slice(&u16::try_from(number).unwrap().to_ne_bytes());
        };
        let length = bytes.len();
        put(&mut bytes, layout.target, layout.length);
        put(&mut bytes, layout.target + 2, length);
        match target {
            Ok(verdict) => bytes[layout.length + 32..][..4].copy_from_slice(&verdict.to_ne_bytes()),
            Err(name) => bytes[layout.length + 2..][..name.len()].copy_from_slice(name.as_bytes()),
        }
        bytes
    }

    /// A table of INPUT, FORWARD and OUTPUT with these entries each, of which the last is the policy.
    fn table(ip: Ip, chains: [Vec<Vec<u8>>; 3]) -> Option<Vec<Builtin>> {
        let (mut info, mut entries) = (request(INFO), Vec::new());
        for (number, chain) in (1..).zip(chains) {
            let mut put = |place: usize, at: usize| {
                let at = u32::try_from(at).unwrap().to_ne_bytes();
                info[place + 4 * number..][..4].copy_from_slice(&at);
            };
            put(ENTRIES_AT, entries.len());
            put(POLICIES_AT, entries.len() + chain[..chain.len() - 1].concat().len());
            entries.extend(chain.concat());
        }
        parse(ip, &info, &entries)
    }

    fn policies(chains: [Vec<Vec<u8>>; 3]) -> [Policy; 3] {
        let builtins = table(Ip::V4, chains).unwrap();
        [0, 1, 2].map(|index| builtins[index].policy)
    }

    #[test]
    fn a_policy_holds_unless_a_rule_for_every_packet_comes_first() {
        let [accept, drop] = [-2, -1].map(|verdict| entry(&V4, Ok(verdict), |_| {}));
        let jump = entry(&V4, Ok(0), |_| {});
        let reject = entry(&V4, Err("REJECT"), |_| {});
        let some = entry(&V4, Err("REJECT"), |bytes| bytes[80] = 6);
        let chains = [vec![accept.clone()], vec![jump, drop.clone()], vec![some, accept.clone()]];
        assert_eq!(policies(chains), [Policy::Accept, Policy::Drop, Policy::Accept]);
        let chains = [vec![reject, accept.clone()], vec![accept.clone(), drop], vec![accept]];
        assert_eq!(policies(chains), [Policy::Drop, Policy::Accept, Policy::Accept]);
    }

    #[test]
    fn rules_that_accept_keep_addresses_and_devices() {
        let source = octets("fd00:1::".parse().unwrap());
        let some = entry(&V6, Ok(-2), |bytes| {
            bytes[..16].copy_from_slice(&source);
            bytes[32..38].fill(0xff);
            bytes[64..73].copy_from_slice(b"selvedge0");
            bytes[96..106].fill(0xff);
        });
        let policy = || vec![entry(&V6, Ok(-1), |_| {})];
        let builtins = table(Ip::V6, [policy(), vec![some, policy().remove(0)], policy()]).unwrap();
        let expressions = &builtins[1].rules[0].expressions;
        let value = |value: &[u8]| {
            expressions
                .iter()
                .any(|expression| matches!(expression, Expression::Compare { value: v, .. } if v == value))
        };
        assert!(value(&source) && value(b"selvedge0\0"), "{expressions:?}");
        assert_eq!((builtins[1].hook, builtins[1].policy), (Hook::Forward, Policy::Drop));
    }

    #[test]
    fn damaged_bytes_are_nothing() {
        let whole = entry(&V4, Ok(-2), |_| {});
        let mut info = request(INFO);
        assert!(parse(Ip::V4, &info, &whole).is_some());
        for length in 1..whole.len() {
            assert_eq!(parse(Ip::V4, &info, &whole[..length]), None, "{length}");
        }
        assert_eq!(parse(Ip::V4, &info, &vec![0; whole.len()]), None);
        info[ENTRIES_AT + 4] = 9;
        assert_eq!(parse(Ip::V4, &info, &whole), None);
    }

    /// Where the kernel has the old iptables.
    #[test]
    fn the_kernels_own_table_accepts_everything() {
        selvedge_lab::isolated!(|| {
            for ip in Ip::BOTH {
                match filter(ip) {
                    Ok(builtins) => {
                        assert!(
                            builtins.iter().all(|builtin| builtin.policy == Policy::Accept),
                            "{builtins:?}"
                        );
                        assert_eq!(builtins.len(), 3);
                    }
                    Err(error) => assert!(
                        matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)),
                        "{error}"
                    ),
                }
            }
        });
    }
}
