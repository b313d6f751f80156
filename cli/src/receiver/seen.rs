//! A bounded memory of what was seen: the oldest is forgotten first.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

pub(super) struct Seen {
    capacity: usize,
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Seen {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, known: HashSet::new(), order: VecDeque::new() }
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.known.contains(key)
    }

    pub(super) fn insert(&mut self, key: String) {
        let key: Arc<str> = key.into();
        if !self.known.insert(Arc::clone(&key)) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut seen = Seen::new(2);
        for key in ["a", "b", "a", "c"] {
            seen.insert(key.to_owned());
        }
        assert!(!seen.contains("a"));
        assert!(seen.contains("b") && seen.contains("c"));
        assert_eq!((seen.known.len(), seen.order.len()), (2, 2));
    }
}
