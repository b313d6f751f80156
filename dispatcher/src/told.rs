//! What the relay tells the intake of its own process.

use eventrail_core::ids::EventId;
use eventrail_core::rail::ready::Hint;

/// A hint, with what helps to follow it quickly.
pub(crate) struct Told {
    pub(crate) hint: Hint,
    /// The events of the entries that were just appended, where they are few: what is known of them can be looked up
    /// while they are read.
    pub(crate) appended: Vec<EventId>,
}

impl From<Hint> for Told {
    fn from(hint: Hint) -> Self {
        Self { hint, appended: Vec::new() }
    }
}
