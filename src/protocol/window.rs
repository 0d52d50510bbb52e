//! Which frames of one incarnation were heard: each counts once, and exactly.

/// How far a frame may be behind the latest one and still count: RFC 4303
/// suggests 64 at least; a burst may be reordered by more.
pub(super) const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// A sliding window over the sequence numbers of one incarnation (RFC 4303, 3.4.3).
#[derive(Clone, Debug)]
pub(super) struct Window {
    first: u64,
    highest: u64,
    received: u64,
    /// One bit for each of the last [`WINDOW`] numbers, at its remainder.
    seen: [u64; WORDS],
}

/// Where a frame stands among those heard before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The latest; this many before it have not been heard yet.
    Ahead { skipped: u64 },
    /// One that was missing.
    Late,
    /// Heard before, or too old to tell.
    Again,
}

impl Window {
    /// The window of a sender whose first heard frame is `sequence`.
    pub fn new(sequence: u64) -> Self {
        let mut window = Self { first: sequence, highest: sequence, received: 1, seen: [0; WORDS] };
        window.mark(sequence);
        window
    }

    /// Takes note of a frame.
    pub fn place(&mut self, sequence: u64) -> Place {
        if sequence > self.highest {
            let skipped = sequence - self.highest - 1;
            if skipped >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                (self.highest + 1..sequence).for_each(|missing| self.clear(missing));
            }
            self.highest = sequence;
            self.mark(sequence);
            self.received += 1;
            return Place::Ahead { skipped };
        }
        let too_old = sequence < self.first || self.highest - sequence >= WINDOW;
        if too_old || self.is_marked(sequence) {
            return Place::Again;
        }
        self.mark(sequence);
        self.received += 1;
        Place::Late
    }

    /// The highest sequence number heard.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Frames heard, each once.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Frames between the first and the highest that were not heard.
    pub fn missing(&self) -> u64 {
        // Both ends may lie anywhere in the range of the type.
        (self.highest - self.first).wrapping_add(1).wrapping_sub(self.received)
    }

    fn bit(sequence: u64) -> (usize, u64) {
        let place = sequence % WINDOW;
        ((place / 64) as usize, 1 << (place % 64))
    }

    fn mark(&mut self, sequence: u64) {
        let (word, bit) = Self::bit(sequence);
        self.seen[word] |= bit;
    }

    fn clear(&mut self, sequence: u64) {
        let (word, bit) = Self::bit(sequence);
        self.seen[word] &= !bit;
    }

    fn is_marked(&self, sequence: u64) -> bool {
        let (word, bit) = Self::bit(sequence);
        self.seen[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a set that remembers everything.
        #[test]
        fn it_tells_what_a_set_tells(
            first in prop_oneof![0..10u64, u64::MAX - 5_000..u64::MAX - 4_000],
            steps in proptest::collection::vec((0..3_000i64, any::<bool>()), 1..200),
        ) {
            let mut window = Window::new(first);
            let mut heard = BTreeSet::from([first]);
            for (step, back) in steps {
                let highest = *heard.last().unwrap();
                let sequence = match back {
                    true => highest.saturating_sub(step as u64),
                    false => highest.saturating_add(step as u64 % 40),
                };
                let expected = if sequence > highest {
                    Place::Ahead { skipped: sequence - highest - 1 }
                } else if sequence < first || highest - sequence >= WINDOW || heard.contains(&sequence) {
                    Place::Again
                } else {
                    Place::Late
                };
                if expected != Place::Again {
                    heard.insert(sequence);
                }
                prop_assert_eq!(window.place(sequence), expected);
                let last = *heard.last().unwrap();
                prop_assert_eq!(window.highest(), last);
                prop_assert_eq!(window.missing(), last - first + 1 - heard.len() as u64);
            }
        }
    }

    #[test]
    fn a_jump_over_the_whole_range_is_one_loss_and_no_overflow() {
        let mut window = Window::new(0);
        assert_eq!(window.place(u64::MAX), Place::Ahead { skipped: u64::MAX - 1 });
        assert_eq!(window.missing(), u64::MAX - 1);
        assert_eq!(window.place(0), Place::Again);
        assert_eq!(window.place(u64::MAX - 1), Place::Late);
    }
}
