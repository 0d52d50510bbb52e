//! The event queue: what happens next, and at equal times what was scheduled first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use clusterd::protocol::Instant;

/// Events by the time at which they happen.
///
/// Events of one moment happen in the order in which they were scheduled, so a
/// run depends on nothing but its scenario and seed.
#[derive(Debug)]
pub struct EventQueue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    scheduled: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: Instant,
    number: u64,
    event: E,
}

impl<E> EventQueue<E> {
    /// Schedules an event. What is in the past happens next.
    pub fn schedule(&mut self, at: Instant, event: E) {
        self.scheduled += 1;
        self.heap.push(Scheduled { at, number: self.scheduled, event });
    }

    /// Takes the next event out.
    pub fn pop(&mut self) -> Option<(Instant, E)> {
        self.heap.pop().map(|Scheduled { at, event, .. }| (at, event))
    }

    /// When the next event happens.
    pub fn next_time(&self) -> Option<Instant> {
        self.heap.peek().map(|next| next.at)
    }

    /// Events that have not happened yet.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Nothing is scheduled.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), scheduled: 0 }
    }
}

// The heap's greatest element is the event that happens first.
impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_happen_by_time_and_then_in_the_order_of_scheduling() {
        let mut queue = EventQueue::default();
        for (at, event) in [(3, 'd'), (1, 'a'), (3, 'e'), (2, 'b'), (2, 'c')] {
            queue.schedule(Instant(at), event);
        }
        assert_eq!(queue.len(), 5);
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcde");
        assert!(queue.is_empty());
    }
}
