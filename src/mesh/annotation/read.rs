//! Texts into typed annotations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use selvedge_keys::PublicKey;

use super::error::Quote;
use super::{
    AnnotationError, ENDPOINTS, FEATURES, KEY_CREATED, KEY_EPOCH, Keys, LANE_KEYS, LOCATION, MAX_ENDPOINTS,
    MAX_EPOCH, MAX_FEATURES, MAX_LANES, MAX_NODE_ADDRESSES, MAX_VALUE, NEXT_LANE_KEYS, NEXT_PUBLIC_KEY,
    NODE_ADDRESSES, NodeAnnotations, POD_CIDRS, PUBLIC_KEY, Problem,
};
use crate::config::range;

/// Longest location or feature.
const MAX_WORD: usize = 63;

/// Reads a Node's annotations. None when there is no `public-key`: the Node is no member of the fabric.
///
/// # Errors
/// Every annotation that is malformed, missing or over its bounds; at most one error for each.
pub fn parse(texts: &BTreeMap<String, String>) -> Result<Option<NodeAnnotations>, Vec<AnnotationError>> {
    if !texts.contains_key(PUBLIC_KEY) {
        return Ok(None);
    }
    let mut reader = Reader { texts, errors: Vec::new() };
    let node = reader.node();
    match (node, reader.errors) {
        (Some(node), errors) if errors.is_empty() => Ok(Some(node)),
        (_, errors) => Err(errors),
    }
}

/// Every key in a Node's annotations that can be read, whatever else they hold: in use, next, and of lanes.
#[must_use]
pub fn public_keys(texts: &BTreeMap<String, String>) -> BTreeSet<PublicKey> {
    let names = [PUBLIC_KEY, LANE_KEYS, NEXT_PUBLIC_KEY, NEXT_LANE_KEYS];
    let texts = names.into_iter().filter_map(|name| texts.get(name));
    texts.flat_map(|text| text.split(',')).filter_map(|key| key.trim().parse().ok()).collect()
}

struct Reader<'a> {
    texts: &'a BTreeMap<String, String>,
    errors: Vec<AnnotationError>,
}

impl Reader<'_> {
    /// None, or some with errors noted, when anything is wrong.
    fn node(&mut self) -> Option<NodeAnnotations> {
        let mut seen = BTreeSet::new();
        let keys = self.keys(PUBLIC_KEY, LANE_KEYS, &mut seen);
        let next_keys = self.keys(NEXT_PUBLIC_KEY, NEXT_LANE_KEYS, &mut seen);
        let key_epoch = self.required(KEY_EPOCH, epoch);
        if next_keys.is_some() && key_epoch == Some(MAX_EPOCH) {
            self.note(KEY_EPOCH, form(&MAX_EPOCH.to_string(), "epoch with one after it"));
        }
        let key_created = self.one(KEY_CREATED, |text| parsed(text, "RFC 3339 time"));
        let endpoints = self.list(ENDPOINTS, MAX_ENDPOINTS, endpoint);
        let mut pod_cidrs = self.list(POD_CIDRS, 2, pod_cidr);
        pod_cidrs.sort_unstable();
        if let [IpNet::V4(_), IpNet::V4(_)] | [IpNet::V6(_), IpNet::V6(_)] = pod_cidrs[..] {
            self.note(POD_CIDRS, Problem::Family);
        }
        let mut node_addresses = self.list(NODE_ADDRESSES, MAX_NODE_ADDRESSES, address);
        node_addresses.sort_unstable();
        let location = self.one(LOCATION, word);
        let features = self.list(FEATURES, MAX_FEATURES, word);
        let (keys, key_epoch) = (keys?, key_epoch?);
        Some(NodeAnnotations {
            keys,
            next_keys,
            key_epoch,
            key_created,
            endpoints,
            pod_cidrs,
            node_addresses,
            location,
            features,
        })
    }

    fn keys(
        &mut self,
        main: &'static str,
        lanes: &'static str,
        seen: &mut BTreeSet<PublicKey>,
    ) -> Option<Keys> {
        let public_key = self.one(main, key);
        let listed = self.list(lanes, MAX_LANES, key);
        if public_key.is_none() && !listed.is_empty() {
            self.note(lanes, Problem::Needs(main));
        }
        let named = public_key.iter().map(|key| (main, key)).chain(listed.iter().map(|key| (lanes, key)));
        for (name, key) in named.collect::<Vec<_>>() {
            if !seen.insert(*key) {
                self.note(name, Problem::RepeatedKey(Quote::new(&key.to_string())));
            }
        }
        Some(Keys { public_key: public_key?, lanes: listed })
    }

    /// The value, None when it is absent or, with an error noted, too long.
    fn text(&mut self, name: &'static str) -> Option<String> {
        let text = self.texts.get(name)?;
        if text.len() > MAX_VALUE {
            self.note(name, Problem::TooLong { length: text.len(), most: MAX_VALUE });
            return None;
        }
        Some(text.clone())
    }

    fn one<T>(&mut self, name: &'static str, read: impl Fn(&str) -> Result<T, Problem>) -> Option<T> {
        let text = self.text(name)?;
        read(&text).map_err(|problem| self.note(name, problem)).ok()
    }

    fn required<T>(&mut self, name: &'static str, read: impl Fn(&str) -> Result<T, Problem>) -> Option<T> {
        if !self.texts.contains_key(name) {
            self.note(name, Problem::Missing);
        }
        self.one(name, read)
    }

    /// Comma-separated values, each once, in the order given; spaces around them do not count.
    fn list<T: PartialEq>(
        &mut self,
        name: &'static str,
        most: usize,
        read: impl Fn(&str) -> Result<T, Problem>,
    ) -> Vec<T> {
        let text = self.text(name).unwrap_or_default();
        let mut items = Vec::new();
        let parts = if text.trim().is_empty() { None } else { Some(text.split(',')) };
        for (index, part) in parts.into_iter().flatten().enumerate() {
            let item = if index < most { read(part.trim()) } else { Err(Problem::TooMany(most)) };
            match item {
                Ok(item) if !items.contains(&item) => items.push(item),
                Ok(_) => {}
                Err(problem) => {
                    self.note(name, problem);
                    break;
                }
            }
        }
        items
    }

    fn note(&mut self, annotation: &'static str, problem: Problem) {
        if self.errors.iter().all(|error| error.annotation != annotation) {
            self.errors.push(AnnotationError { annotation, problem });
        }
    }
}

fn key(text: &str) -> Result<PublicKey, Problem> {
    let key = text.parse().and_then(|key: PublicKey| key.check().map(|()| key));
    key.map_err(|error| Problem::Key { quote: Quote::new(text), error })
}

/// Digits alone: no sign, no leading zero.
fn epoch(text: &str) -> Result<u64, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let epoch = text.parse().ok().filter(|epoch| digits && *epoch <= MAX_EPOCH);
    epoch.ok_or_else(|| form(text, "epoch (an integer from 1 to 9007199254740991)"))
}

fn endpoint(text: &str) -> Result<SocketAddr, Problem> {
    let endpoint: SocketAddr = parsed(text, "ip:port")?;
    if matches!(endpoint, SocketAddr::V6(v6) if v6.scope_id() != 0) || endpoint.port() == 0 {
        return Err(form(text, "ip:port that others can reach"));
    }
    usable(text, endpoint.ip()).map(|()| endpoint)
}

fn address(text: &str) -> Result<IpAddr, Problem> {
    let address = parsed(text, "IP address")?;
    usable(text, address).map(|()| address)
}

fn usable(text: &str, address: IpAddr) -> Result<(), Problem> {
    match range::special(address) {
        Some(range) => Err(Problem::Special { quote: Quote::new(text), range }),
        None => Ok(()),
    }
}

fn pod_cidr(text: &str) -> Result<IpNet, Problem> {
    let net: IpNet = parsed(text, "prefix")?;
    if net.prefix_len() == 0 {
        return Err(Problem::DefaultRoute { quote: Quote::new(text) });
    }
    if net.trunc() != net {
        return Err(Problem::HostBits { quote: Quote::new(text) });
    }
    match range::special_in(&net) {
        Some(range) => Err(Problem::Special { quote: Quote::new(text), range }),
        None => Ok(net),
    }
}

fn word(text: &str) -> Result<String, Problem> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=/:".contains(&byte);
    if text.is_empty() || text.len() > MAX_WORD || !text.bytes().all(known) {
        return Err(form(text, "word of at most 63 letters, digits and -_.=/:"));
    }
    Ok(text.to_owned())
}

fn parsed<T: FromStr>(text: &str, expected: &'static str) -> Result<T, Problem> {
    text.parse().map_err(|_| form(text, expected))
}

fn form(text: &str, expected: &'static str) -> Problem {
    Problem::Form { quote: Quote::new(text), expected }
}
