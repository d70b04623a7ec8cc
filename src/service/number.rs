//! The numbers of plans, by which the kernel's maps of targets name what becomes of a packet.

use super::class::Class;
use super::plan::Action;

/// That of an action, and of the class of its backends.
#[must_use]
pub(super) fn plan_number(action: Action, count: usize) -> u32 {
    let class = u32::from(Class::of(count).number);
    match action {
        Action::Reject => 1,
        Action::Drop => 2,
        Action::Cluster => 0x100 + class,
        Action::Masquerade => 0x200 + class,
        Action::Local => 0x300 + class,
    }
}

/// The same for a port with session affinity, whose backends are its own chain's matter.
#[must_use]
pub(super) fn affinity_plan(action: Action) -> u32 {
    match action {
        Action::Reject | Action::Drop => plan_number(action, 0),
        Action::Cluster => 3,
        Action::Masquerade => 4,
        Action::Local => 5,
    }
}
