//! `[keys]`: how long a key may be used, who is responsible for it, and who rotates it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::value::Value;
use crate::duration;

const DAY: Duration = Duration::from_secs(86_400);
const SHORTEST_CRYPTOPERIOD: Duration = DAY;
/// No key may be used for longer, whatever the configuration says.
pub const LONGEST_CRYPTOPERIOD: Duration = DAY.saturating_mul(365);
const DEFAULT_CRYPTOPERIOD: Duration = DAY.saturating_mul(90);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// Defaults of `minimumInterval` and `warnBefore`, unless the cryptoperiod is too short for them.
const DEFAULT_INTERVAL: Duration = DAY;
const DEFAULT_WARNING: Duration = DAY.saturating_mul(14);
/// With automatic rotation the default of `warnBefore` is this part of the cryptoperiod: half of the time that the agent takes
/// at least, so that a warning means that the rotation does not succeed.
const OVERDUE: u32 = 100;
/// Most bytes of `custodian`.
const LONGEST_CUSTODIAN: usize = 256;

/// What the organisation demands of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyPolicy {
    /// How long a key may be used, from 1 to 365 days.
    #[serde(with = "duration::text")]
    pub cryptoperiod: Duration,
    /// Who rotates a key that is about to expire.
    pub rotate: Rotate,
    /// Who is responsible for the keys; empty if nobody was named.
    pub custodian: String,
    /// Least age of a key that the agent rotates by itself, at most the cryptoperiod.
    #[serde(with = "duration::text")]
    pub minimum_interval: Duration,
    /// How long before its expiry the agent warns of a key, at most the cryptoperiod.
    #[serde(with = "duration::text")]
    pub warn_before: Duration,
}

/// Who rotates a key that is about to expire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rotate {
    /// An operator.
    #[default]
    Manual,
    /// The agent.
    Auto,
}

impl Default for KeyPolicy {
    fn default() -> Self {
        check(Texts::default(), &mut Vec::new())
    }
}

/// The values as written.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub(super) cryptoperiod: Option<Value<String>>,
    pub(super) rotate: Option<Value<String>>,
    pub(super) custodian: Option<Value<String>>,
    pub(super) minimum_interval: Option<Value<String>>,
    pub(super) warn_before: Option<Value<String>>,
}

/// Notes every problem; a value with a problem becomes the default.
pub(super) fn check(texts: Texts, problems: &mut Vec<Problem>) -> KeyPolicy {
    let mut check = Check { problems };
    let period = SHORTEST_CRYPTOPERIOD..=LONGEST_CRYPTOPERIOD;
    let cryptoperiod = check.duration(texts.cryptoperiod, period, "");
    let cryptoperiod = cryptoperiod.unwrap_or(DEFAULT_CRYPTOPERIOD);
    let rotate = check.rotate(texts.rotate);
    let bound = ", the cryptoperiod";
    let minimum_interval = check.duration(texts.minimum_interval, SHORTEST_INTERVAL..=cryptoperiod, bound);
    let warn_before = check.duration(texts.warn_before, Duration::ZERO..=cryptoperiod, bound);
    KeyPolicy {
        cryptoperiod,
        rotate,
        custodian: check.custodian(texts.custodian),
        minimum_interval: minimum_interval.unwrap_or(DEFAULT_INTERVAL.min(cryptoperiod / 2)),
        warn_before: warn_before.unwrap_or(match rotate {
            Rotate::Manual => DEFAULT_WARNING.min(cryptoperiod / 4),
            Rotate::Auto => cryptoperiod / OVERDUE,
        }),
    }
}

struct Check<'a> {
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    /// `bound` says where the upper bound is from.
    fn duration(
        &mut self,
        text: Option<Value<String>>,
        range: std::ops::RangeInclusive<Duration>,
        bound: &str,
    ) -> Option<Duration> {
        let text = text?;
        match duration::parse(&text.value) {
            Ok(value) if range.contains(&value) => return Some(value),
            Ok(value) => {
                let [least, most] = [range.start(), range.end()].map(|bound| duration::show(*bound));
                let problem = format!("{} is out of range", duration::show(value));
                self.problems.push(text.problem(problem, format!("write {least} to {most}{bound}")));
            }
            Err(remedy) => {
                self.problems.push(text.problem(format!("`{}` is not a duration", text.value), remedy));
            }
        }
        None
    }

    fn rotate(&mut self, text: Option<Value<String>>) -> Rotate {
        match text {
            Some(text) if text.value == "auto" => return Rotate::Auto,
            Some(text) if text.value != "manual" => {
                let problem = format!("`{}` is not a way to rotate keys", text.value);
                self.problems.push(text.problem(problem, "write \"manual\" or \"auto\""));
            }
            _ => {}
        }
        Rotate::Manual
    }

    fn custodian(&mut self, text: Option<Value<String>>) -> String {
        let Some(text) = text else { return String::new() };
        if text.value.len() > LONGEST_CUSTODIAN || text.value.contains(char::is_control) {
            let remedy = format!("write at most {LONGEST_CUSTODIAN} bytes on one line");
            self.problems.push(text.problem("it cannot be the name of a custodian", remedy));
        }
        text.value
    }
}
