//! How a packet draws a backend. The index is drawn into the packet's priority, and one chain for all classes looks it up: with
//! each element that is added to a map, the kernel goes through all rules that use the map.

use super::class::{Class, DRAWS};
use super::names::set_name;
use super::target::selectors;
use crate::kernel::nft::{Ip, Register, Rule, Selector};

/// A random number below this becomes the packet's priority.
pub(super) fn random(below: u32) -> Rule {
    Rule::new().load_fields(Register::FIRST, &[Selector::Random(below)]).0.set_priority()
}

/// The target with the packet's priority, an index or a number.
pub(super) fn numbered(ip: Ip) -> Vec<Selector> {
    [&selectors(ip)[..], &[Selector::Priority]].concat()
}

/// Draws for a class of counts; `chain` is that of [`translate`]. Where an index has become free meanwhile, the last draw finds
/// the first backend; without any, there is no endpoint left.
pub(super) fn draw(class: Class, chain: &str) -> Vec<Rule> {
    let exact = class.least == class.size;
    let sizes = std::iter::repeat_n(class.size, if exact { 1 } else { DRAWS });
    let sizes = sizes.chain((!exact).then_some(class.least)).chain((class.size > 1).then_some(1));
    sizes.map(|size| random(size).jump(chain)).chain([Rule::new().goto("rejected")]).collect()
}

/// Translates to the backend that the map has for the packet's priority, and comes back where it has none.
pub(super) fn translate(map: &str) -> Vec<Rule> {
    let rule = |ip| Rule::new().ip(ip).map(&numbered(ip), &set_name(map, ip)).dnat_to_mapped(ip);
    Ip::BOTH.map(rule).into()
}
