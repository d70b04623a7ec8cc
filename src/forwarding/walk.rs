//! What becomes of a packet that no rule picks, in a chain and all that it leads to. Pure.

use std::collections::BTreeMap;

use crate::kernel::nft::{Expression, Rule, Verdict};

/// Most chains behind each other that are followed.
const DEPTH: usize = 16;

/// What a chain does with what no rule picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Accepts,
    Drops,
    /// Leaves it to the chain before, or to the policy.
    Through,
}

/// What was seen on the way: `read` gives the rules of a chain.
pub(crate) struct Walk<R> {
    read: R,
    known: BTreeMap<String, End>,
    /// Rules that a packet may come to, in all chains.
    rules: Vec<Rule>,
}

impl<E, R: FnMut(&str) -> Result<Vec<Rule>, E>> Walk<R> {
    /// The end of `chain`, and every rule that a packet may come to.
    ///
    /// # Errors
    /// As `read` says.
    pub(crate) fn through(chain: &str, read: R) -> Result<(End, Vec<Rule>), E> {
        let mut walk = Self { read, known: BTreeMap::new(), rules: Vec::new() };
        let end = walk.chain(chain, 0)?;
        Ok((end, walk.rules))
    }

    /// A chain is walked once, which also ends on chains that lead to each other.
    fn chain(&mut self, name: &str, depth: usize) -> Result<End, E> {
        if let Some(end) = self.known.get(name) {
            return Ok(*end);
        }
        self.known.insert(name.to_owned(), End::Through);
        let mut end = None;
        if depth < DEPTH {
            for rule in (self.read)(name)? {
                let led = self.rule(&rule, depth)?;
                end = led.filter(|_| rule.is_unconditional());
                self.rules.push(rule);
                if end.is_some() {
                    break;
                }
            }
        }
        let end = end.unwrap_or(End::Through);
        self.known.insert(name.to_owned(), end);
        Ok(end)
    }

    /// What becomes of a packet that the rule picks; nothing when it goes on with the next one.
    fn rule(&mut self, rule: &Rule, depth: usize) -> Result<Option<End>, E> {
        Ok(match rule.expressions.last() {
            Some(Expression::Verdict(Verdict::Accept)) => Some(End::Accepts),
            Some(Expression::Verdict(Verdict::Drop) | Expression::Reject { .. }) => Some(End::Drops),
            Some(Expression::Target(name)) if name == "REJECT" => Some(End::Drops),
            Some(Expression::Verdict(Verdict::Return)) => Some(End::Through),
            Some(Expression::Verdict(Verdict::Goto(chain))) => Some(self.chain(chain, depth + 1)?),
            Some(Expression::Verdict(Verdict::Jump(chain))) => {
                Some(self.chain(chain, depth + 1)?).filter(|end| *end != End::Through)
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::kernel::nft::Reject;

    fn end(chains: &[(&str, Vec<Rule>)]) -> (End, usize) {
        let read = |name: &str| {
            let found = chains.iter().find(|(chain, _)| *chain == name);
            Ok::<_, Infallible>(found.map(|(_, rules)| rules.clone()).unwrap_or_default())
        };
        let (end, rules) = Walk::through("a", read).unwrap();
        (end, rules.len())
    }

    fn reject() -> Rule {
        Rule::new().with(Expression::Counter).with(Expression::Reject { kind: Reject::Icmp, code: 10 })
    }

    #[test]
    fn only_a_rule_for_every_packet_ends_a_chain() {
        assert_eq!(end(&[("a", vec![])]), (End::Through, 0));
        assert_eq!(end(&[("a", vec![Rule::new().protocol(6).drop(), reject()])]), (End::Drops, 2));
        assert_eq!(end(&[("a", vec![Rule::new().protocol(6).drop()])]), (End::Through, 1));
        assert_eq!(end(&[("a", vec![Rule::new().accept(), reject()])]), (End::Accepts, 1));
        let target = Rule::new().with(Expression::Target("REJECT".into()));
        assert_eq!(end(&[("a", vec![target])]), (End::Drops, 1));
        let matched = Rule::new().with(Expression::Match("conntrack".into())).accept();
        assert_eq!(end(&[("a", vec![matched])]), (End::Through, 1));
    }

    #[test]
    fn jumps_are_followed_and_come_back() {
        let to = |chain: &str| Rule::new().jump(chain);
        assert_eq!(end(&[("a", vec![to("b")]), ("b", vec![reject()])]), (End::Drops, 2));
        assert_eq!(end(&[("a", vec![to("b"), reject()]), ("b", vec![Rule::new().end()])]), (End::Drops, 3));
        assert_eq!(end(&[("a", vec![Rule::new().goto("b"), reject()]), ("b", vec![])]), (End::Through, 1));
        assert_eq!(
            end(&[("a", vec![Rule::new().protocol(6).jump("b")]), ("b", vec![reject()])]),
            (End::Through, 2)
        );
        assert_eq!(end(&[("a", vec![to("b")]), ("b", vec![to("a"), reject()])]), (End::Drops, 3));
    }
}
