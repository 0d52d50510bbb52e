//! When which attempt's time is up: one deadline for each slot of the attempt table.
//!
//! A radix heap (Ahuja, Mehlhorn, Orlin, Tarjan 1990) with digits of six bits,
//! which is also a hierarchical timing wheel with a tick of one nanosecond. It
//! rests on what [`Node`](super::Node) asks of its driver, that time never runs
//! backwards: a deadline is filed by the highest digit in which it differs from
//! `base`, the latest deadline delivered, so each bucket is a range of times
//! and the first one in use holds the earliest. When its time comes, it is dealt
//! out to lower digits. Setting and clearing cost the same with ten entries and
//! with a million; an entry is dealt out once for each of its digits at most.
//! Lists run through the entries, so nothing is allocated but for new slots.

use std::fmt;

use super::Instant;
use super::table::Slot;

const DIGIT_BITS: u32 = 6;
const DIGITS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// A place in the list of a bucket.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// When the time is up; `None` if nobody waits.
    at: Option<Instant>,
    before: Option<Slot>,
    after: Option<Slot>,
}

/// Entries whose deadlines agree in all digits above one, and in that one.
#[derive(Clone, Copy, Default)]
struct Bucket {
    first: Option<Slot>,
    last: Option<Slot>,
    /// No entry is earlier. The earliest may have gone since.
    at_least: Instant,
}

/// The deadlines of the attempts, by slot.
#[derive(Clone)]
pub(super) struct Deadlines {
    base: Instant,
    /// The entry of slot n is at n - 1.
    entries: Vec<Entry>,
    buckets: Box<[[Bucket; DIGITS]; LEVELS]>,
    /// A bit for each bucket that is not empty, by level.
    used: [u64; LEVELS],
}

impl Deadlines {
    /// Nothing to wait for, and room for `slots` slots.
    pub fn with_capacity(slots: usize) -> Self {
        Self {
            base: Instant::default(),
            entries: Vec::with_capacity(slots),
            buckets: Box::new([[Bucket::default(); DIGITS]; LEVELS]),
            used: [0; LEVELS],
        }
    }

    /// The slot's deadline is `at` from now on. One that has passed already is
    /// delivered at once, after those set before for earlier or the same time.
    pub fn set(&mut self, slot: Slot, at: Instant) {
        // Deadlines before `base` would be filed under times long gone.
        let at = at.max(self.base);
        if self.entries.len() < slot.number() {
            self.entries.resize(slot.number(), Entry::default());
        }
        if self.entries[slot.index()].at != Some(at) {
            self.clear(slot);
            self.file(slot, at);
        }
    }

    /// The slot waits for nothing any more.
    pub fn clear(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get_mut(slot.index()) else { return };
        let Entry { at, before, after } = std::mem::take(entry);
        let Some(at) = at else { return };
        let (level, digit) = self.place(at);
        let bucket = &mut self.buckets[level][digit];
        match before {
            Some(before) => self.entries[before.index()].after = after,
            None => bucket.first = after,
        }
        match after {
            Some(after) => self.entries[after.index()].before = before,
            None => bucket.last = before,
        }
        if bucket.first.is_none() {
            self.used[level] &= !(1 << digit);
        }
    }

    /// Nothing is due before this moment. That is the earliest deadline itself,
    /// or was it when its bucket was filed: a driver that wakes up for a deadline
    /// since cleared finds nothing due, and the next answer is a later moment.
    pub fn next(&self) -> Option<Instant> {
        self.first().map(|(level, digit)| self.buckets[level][digit].at_least)
    }

    /// Takes out the earliest deadline if it is not after `now`; of equal ones
    /// that which was set first.
    pub fn pop(&mut self, now: Instant) -> Option<Slot> {
        loop {
            let (level, digit) = self.first()?;
            let Bucket { first, at_least, .. } = self.buckets[level][digit];
            if at_least > now {
                return None;
            }
            self.base = at_least;
            if level == 0 {
                let slot = first?;
                self.clear(slot);
                return Some(slot);
            }
            self.deal_out(level, digit);
        }
    }

    /// Files the entries of a bucket anew, in order, under the new base.
    fn deal_out(&mut self, level: usize, digit: usize) {
        let mut next = std::mem::take(&mut self.buckets[level][digit]).first;
        self.used[level] &= !(1 << digit);
        while let Some(slot) = next {
            let Entry { at, after, .. } = std::mem::take(&mut self.entries[slot.index()]);
            next = after;
            self.file(slot, at.expect("an entry in a list has a deadline"));
        }
    }

    /// Appends an entry that is in no list to the list of its bucket.
    fn file(&mut self, slot: Slot, at: Instant) {
        let (level, digit) = self.place(at);
        let bucket = &mut self.buckets[level][digit];
        self.entries[slot.index()] = Entry { at: Some(at), before: bucket.last, after: None };
        match bucket.last.replace(slot) {
            Some(last) => {
                self.entries[last.index()].after = Some(slot);
                bucket.at_least = bucket.at_least.min(at);
            }
            None => {
                bucket.first = Some(slot);
                bucket.at_least = at;
                self.used[level] |= 1 << digit;
            }
        }
    }

    /// Level and digit of the bucket for `at`, which is not before `base`.
    fn place(&self, at: Instant) -> (usize, usize) {
        let differ = (at.0 ^ self.base.0) | 1;
        let level = differ.ilog2() / DIGIT_BITS;
        (level as usize, (at.0 >> (level * DIGIT_BITS)) as usize % DIGITS)
    }

    /// The first bucket that is not empty: higher levels and digits are later.
    fn first(&self) -> Option<(usize, usize)> {
        let level = self.used.iter().position(|&used| used != 0)?;
        Some((level, self.used[level].trailing_zeros() as usize))
    }
}

impl fmt::Debug for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.entries.iter().map(|entry| entry.at).enumerate();
        f.debug_map().entries(set.filter_map(|(n, at)| Some((n + 1, at?)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn slot(number: usize) -> Slot {
        Slot::nth(number)
    }

    fn popped(deadlines: &mut Deadlines, now: u64) -> Vec<Slot> {
        std::iter::from_fn(|| deadlines.pop(Instant(now))).collect()
    }

    #[test]
    fn equal_deadlines_come_in_the_order_in_which_they_were_set() {
        let mut deadlines = Deadlines::with_capacity(0);
        for number in [2, 0, 3, 1] {
            deadlines.set(slot(number), Instant(1_000_000));
        }
        deadlines.set(slot(4), Instant(70));
        deadlines.set(slot(0), Instant(2_000_000));
        deadlines.set(slot(0), Instant(1_000_000));
        assert_eq!(popped(&mut deadlines, 70), [slot(4)]);
        assert_eq!(popped(&mut deadlines, 999_999), []);
        assert_eq!(popped(&mut deadlines, 1_000_000), [2, 3, 1, 0].map(slot));
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn a_deadline_that_has_passed_is_due_at_once() {
        let mut deadlines = Deadlines::with_capacity(4);
        deadlines.set(slot(0), Instant(5_000));
        assert_eq!(popped(&mut deadlines, 9_000), [slot(0)]);
        deadlines.set(slot(1), Instant(10));
        deadlines.set(slot(2), Instant(u64::MAX));
        assert_eq!(popped(&mut deadlines, 9_000), [slot(1)]);
        assert_eq!(popped(&mut deadlines, u64::MAX), [slot(2)]);
    }

    #[test]
    fn waking_up_for_a_deadline_that_was_cleared_happens_once() {
        let mut deadlines = Deadlines::with_capacity(2);
        deadlines.set(slot(0), Instant(1_000_000));
        deadlines.set(slot(1), Instant(1_000_500));
        deadlines.clear(slot(0));
        assert_eq!(deadlines.next(), Some(Instant(1_000_000)));
        assert_eq!(deadlines.pop(Instant(1_000_000)), None);
        assert_eq!(deadlines.next(), Some(Instant(1_000_500)));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Set {
            slot: usize,
            wait: u64,
        },
        Clear {
            slot: usize,
        },
        /// Time passes; what is due is set again after so long, once.
        Pass {
            time: u64,
            again: Option<u64>,
        },
    }

    fn op() -> impl Strategy<Value = Op> {
        let time = || prop_oneof![Just(0), 0..200u64, 0..5_000_000u64, 0..20_000_000_000u64];
        prop_oneof![
            6 => (0..40usize, time()).prop_map(|(slot, wait)| Op::Set { slot, wait }),
            2 => (0..40usize).prop_map(|slot| Op::Clear { slot }),
            2 => (time(), prop::option::of(time()))
                .prop_map(|(time, again)| Op::Pass { time, again }),
        ]
    }

    /// The model: deadlines with the order of setting, earliest first.
    #[derive(Default)]
    struct Model {
        set: BTreeSet<(Instant, usize, Slot)>,
        count: usize,
    }

    impl Model {
        fn clear(&mut self, slot: Slot) {
            self.set.retain(|&(_, _, other)| other != slot);
        }

        fn set(&mut self, slot: Slot, at: Instant) {
            if !self.set.iter().any(|&(when, _, other)| (when, other) == (at, slot)) {
                self.clear(slot);
                self.count += 1;
                self.set.insert((at, self.count, slot));
            }
        }
    }

    proptest! {
        #[test]
        fn deadlines_come_exactly_as_from_an_ordered_set(
            ops in prop::collection::vec(op(), 1..200),
        ) {
            let (mut deadlines, mut model) = (Deadlines::with_capacity(0), Model::default());
            let mut now = Instant(12_345_678);
            for op in ops {
                match op {
                    Op::Set { slot: number, wait } => {
                        deadlines.set(slot(number), Instant(now.0 + wait));
                        model.set(slot(number), Instant(now.0 + wait));
                    }
                    Op::Clear { slot: number } => {
                        deadlines.clear(slot(number));
                        model.clear(slot(number));
                    }
                    Op::Pass { time, mut again } => {
                        now.0 += time;
                        loop {
                            let due = model.set.first().filter(|(at, ..)| *at <= now).copied();
                            prop_assert_eq!(deadlines.pop(now), due.map(|(_, _, slot)| slot));
                            let Some((at, count, slot)) = due else { break };
                            model.set.remove(&(at, count, slot));
                            if let Some(wait) = again.take() {
                                deadlines.set(slot, Instant(now.0 + wait));
                                model.set(slot, Instant(now.0 + wait));
                            }
                        }
                        prop_assert!(deadlines.next().is_none_or(|next| next > now));
                    }
                }
                // Never late, and exact once nothing has been cleared since.
                let earliest = model.set.first().map(|&(at, ..)| at);
                prop_assert_eq!(deadlines.next().is_some(), earliest.is_some());
                prop_assert!(deadlines.next() <= earliest);
            }
        }

        #[test]
        fn the_next_deadline_is_exact_until_one_is_cleared(
            waits in prop::collection::vec(0..20_000_000_000u64, 1..100), now in 0..1u64 << 40,
        ) {
            let mut deadlines = Deadlines::with_capacity(0);
            deadlines.set(slot(0), Instant(now));
            deadlines.pop(Instant(now));
            for (number, wait) in waits.iter().enumerate() {
                deadlines.set(slot(number), Instant(now + wait));
                let earliest = waits[..=number].iter().min();
                prop_assert_eq!(deadlines.next(), earliest.map(|wait| Instant(now + wait)));
            }
        }
    }
}
