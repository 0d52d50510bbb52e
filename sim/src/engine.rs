//! The event queue: what happens next, and at equal times what was scheduled first.

use clusterd::protocol::Instant;

/// Bits of a time, and one list for times that do not differ.
const LISTS: usize = u64::BITS as usize + 1;

/// Events by the time at which they happen.
///
/// Events of one moment happen in the order in which they were scheduled, so a
/// run depends on nothing but its scenario and seed.
///
/// It is a radix heap (Ahuja, Mehlhorn, Orlin and Tarjan 1990): time does not run backwards, so
/// an event need only be sorted as finely as it is near. Many events are far
/// away (a client's patience, a SYN to be said again) and cost next to nothing
/// until then. Of one moment all events are in one list at any time, in order.
#[derive(Debug)]
pub struct EventQueue<E> {
    /// List n has the events whose time differs from `now` first in bit n - 1, list 0 those of
    /// `now`, in reverse order.
    lists: [Vec<(u64, E)>; LISTS],
    /// Which lists are not empty, but for list 0.
    occupied: u64,
    now: u64,
    len: usize,
}

impl<E> EventQueue<E> {
    /// Schedules an event. What is in the past happens next, after what is due now.
    pub fn schedule(&mut self, at: Instant, event: E) {
        let at = at.0.max(self.now);
        self.len += 1;
        match list_of(at, self.now) {
            // It comes after all others of this moment, and they are taken from the end.
            0 => self.lists[0].insert(0, (at, event)),
            list => self.put(list, at, event),
        }
    }

    fn put(&mut self, list: usize, at: u64, event: E) {
        self.occupied |= 1 << (list - 1);
        self.lists[list].push((at, event));
    }

    /// Takes the next event out if it happens at `end` or before.
    pub fn pop_until(&mut self, end: Instant) -> Option<(Instant, E)> {
        if self.lists[0].is_empty() {
            self.advance(end.0)?;
        }
        if self.now > end.0 {
            return None;
        }
        let (at, event) = self.lists[0].pop()?;
        self.len -= 1;
        Some((Instant(at), event))
    }

    /// Goes to the next time at which something happens, unless that is after `end`.
    fn advance(&mut self, end: u64) -> Option<()> {
        let nearest = self.occupied.trailing_zeros() as usize + 1;
        let list = self.lists.get_mut(nearest)?;
        let next = list.iter().map(|&(at, _)| at).min()?;
        if next > end {
            return None;
        }
        self.now = next;
        let mut list = std::mem::take(list);
        self.occupied &= !(1 << (nearest - 1));
        for (at, event) in list.drain(..) {
            match list_of(at, next) {
                0 => self.lists[0].push((at, event)),
                nearer => self.put(nearer, at, event),
            }
        }
        // Its memory is used again.
        self.lists[nearest] = list;
        self.lists[0].reverse();
        Some(())
    }

    /// Events that have not happened yet.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is scheduled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Where an event of this time belongs.
fn list_of(at: u64, now: u64) -> usize {
    (u64::BITS - (at ^ now).leading_zeros()) as usize
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { lists: std::array::from_fn(|_| Vec::new()), occupied: 0, now: 0, len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const END: Instant = Instant(u64::MAX);

    #[test]
    fn events_happen_by_time_and_then_in_the_order_of_scheduling() {
        let mut queue = EventQueue::default();
        for (at, event) in [(3, 'd'), (1, 'a'), (3, 'e'), (2, 'b'), (2, 'c')] {
            queue.schedule(Instant(at), event);
        }
        assert_eq!(queue.len(), 5);
        let order = std::iter::from_fn(|| queue.pop_until(END)).map(|(_, event)| event);
        assert_eq!(order.collect::<String>(), "abcde");
        assert!(queue.is_empty());
    }

    #[test]
    fn what_is_later_stays() {
        let mut queue = EventQueue::default();
        queue.schedule(Instant(10), 'b');
        assert_eq!(queue.pop_until(Instant(9)), None);
        queue.schedule(Instant(5), 'a');
        assert_eq!(queue.pop_until(Instant(9)), Some((Instant(5), 'a')));
        assert_eq!(queue.pop_until(Instant(10)), Some((Instant(10), 'b')));
    }

    proptest! {
        /// As a list that is sorted each time.
        #[test]
        fn it_is_a_stable_priority_queue(steps in prop::collection::vec((0..2u8, 0..40u64), 1..200)) {
            let (mut queue, mut model, mut now) = (EventQueue::default(), Vec::new(), 0);
            for (number, (step, wait)) in steps.into_iter().enumerate() {
                if step == 0 {
                    // Near and far.
                    let at = now + if wait % 3 == 0 { wait << 30 } else { wait };
                    queue.schedule(Instant(at), number);
                    model.push((at, number));
                    continue;
                }
                let end = now + wait;
                model.sort();
                let next = model.first().copied().filter(|&(at, _)| at <= end);
                if let Some((at, _)) = next {
                    model.remove(0);
                    now = at;
                }
                let popped = queue.pop_until(Instant(end));
                prop_assert_eq!(popped, next.map(|(at, number)| (Instant(at), number)));
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
