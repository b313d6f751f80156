//! What this process has in hand: each delivery once, from being taken until its outcome is settled.

use std::collections::HashMap;

use eventrail_core::rail::schedule::Member;

use crate::lanes::Class;

#[derive(Default)]
pub(super) struct Held {
    members: HashMap<Member, Class>,
    background: usize,
}

impl Held {
    /// False if it is in hand already.
    pub(super) fn take(&mut self, member: Member, class: Class) -> bool {
        if self.members.contains_key(&member) {
            return false;
        }
        self.background += usize::from(class == Class::Background);
        self.members.insert(member, class);
        true
    }

    pub(super) fn release(&mut self, member: &Member) {
        if self.members.remove(member) == Some(Class::Background) {
            self.background -= 1;
        }
    }

    pub(super) fn background(&self) -> usize {
        self.background
    }

    pub(super) fn prompt(&self) -> usize {
        self.members.len() - self.background
    }
}
