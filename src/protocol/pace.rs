//! How long to wait for the others: the slot S and the settling time D follow
//! what is measured (spec 7).
//!
//! The SYN is the common clock. It reaches all hosts at nearly one moment; how
//! much later the first host's word about it comes is exactly what the next one
//! must wait for. So no time stamps travel on the wire.

use std::time::Duration;

use super::{Instant, Timers};

/// Samples without which the defaults stay.
pub(super) const SAMPLES_MIN: u32 = 512;
/// Samples at which all counts are halved, so that old ones fade.
pub(super) const SAMPLES_MAX: u32 = 8_192;
/// Whatever is measured, a thread needs some time to wake.
pub(super) const LEAST: Duration = Duration::from_micros(500);
/// Well below the time for which a claim defers the others. Only what is left
/// to another host, or a dead one, waits a slot.
pub(super) const SLOT_MOST: Duration = Duration::from_millis(15);
/// Every settled attempt waits this long.
pub(super) const SETTLE_MOST: Duration = Duration::from_millis(5);
/// Buckets to a doubling of the time.
const PER_OCTAVE: u32 = 4;
const BUCKETS: usize = 64;

/// The delays measured lately, in logarithmic buckets.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    slot: Duration,
    settle: Duration,
    adapts: (bool, bool),
    counts: [u32; BUCKETS],
    samples: u32,
}

impl Pace {
    pub fn new(timers: &Timers) -> Self {
        Self {
            slot: timers.slot,
            settle: timers.settle,
            adapts: (timers.slot_adapts, timers.settle_adapts),
            counts: [0; BUCKETS],
            samples: 0,
        }
    }

    /// S: how long each rank waits for the one before it.
    pub fn slot(&self) -> Duration {
        self.slot
    }

    /// D: how long a claim that may have crossed another one settles.
    pub fn settle(&self) -> Duration {
        self.settle
    }

    /// The first host's word came at `now` about a SYN that came here at `arrived`.
    pub fn sample(&mut self, arrived: Instant, now: Instant) {
        self.counts[bucket(now.since(arrived))] += 1;
        self.samples += 1;
        if self.samples >= SAMPLES_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.samples = self.counts.iter().sum();
        }
        if self.samples >= SAMPLES_MIN && self.samples.is_multiple_of(SAMPLES_MIN / 8) {
            self.adapt();
        }
    }

    /// The slot becomes twice the delay that one in a thousand exceeds, the
    /// settling time twice that (a round trip) which one in a hundred exceeds.
    fn adapt(&mut self) {
        if self.adapts.0 {
            self.slot = (self.exceeded_by(1_000) * 2).clamp(LEAST, SLOT_MOST);
        }
        if self.adapts.1 {
            self.settle = (self.exceeded_by(100) * 2).clamp(LEAST, SETTLE_MOST);
        }
    }

    /// The upper end of the bucket beyond which at most one sample in `many` lies.
    fn exceeded_by(&self, many: u32) -> Duration {
        let mut beyond = self.samples / many;
        for (bucket, &count) in self.counts.iter().enumerate().rev() {
            if count > beyond {
                return end(bucket);
            }
            beyond -= count;
        }
        Duration::ZERO
    }
}

/// Buckets are even parts of each doubling from one microsecond on.
fn bucket(delay: Duration) -> usize {
    let micros = (delay.as_micros() as u64).max(1);
    let octave = micros.ilog2();
    let within = ((micros - (1 << octave)) * u64::from(PER_OCTAVE)) >> octave;
    ((octave * PER_OCTAVE) as usize + within as usize).min(BUCKETS - 1)
}

fn end(bucket: usize) -> Duration {
    let (octave, within) =
        (bucket as u64 / u64::from(PER_OCTAVE), bucket as u64 % u64::from(PER_OCTAVE));
    let width = 1u64 << octave;
    Duration::from_micros(width + (within + 1) * width / u64::from(PER_OCTAVE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(delays: impl IntoIterator<Item = u64>) -> Pace {
        let mut pace = Pace::new(&Timers::default());
        for micros in delays {
            pace.sample(Instant::default(), Instant::from_micros(micros));
        }
        pace
    }

    proptest! {
        #[test]
        fn a_bucket_ends_behind_its_delays_by_a_quarter_at_most(micros in 4..60_000u64) {
            let end = end(bucket(Duration::from_micros(micros))).as_micros() as u64;
            prop_assert!(end > micros && end * 4 <= micros * 5 + 4, "{micros} in a bucket to {end}");
        }

        #[test]
        fn a_longer_tail_never_shortens_the_wait(
            base in 1..2_000u64, tail in 0..20_000u64, longer in 0..20_000u64,
        ) {
            let wait = |tail| pace((0..1_024).map(|n| base + if n % 100 == 0 { tail } else { 0 })).slot();
            prop_assert!(wait(tail) <= wait(tail + longer));
        }
    }

    #[test]
    fn few_samples_change_nothing() {
        let pace = pace((0..511).map(|_| 9_000));
        assert_eq!(
            (pace.slot(), pace.settle()),
            (Timers::default().slot, Timers::default().settle)
        );
    }

    #[test]
    fn the_wait_is_twice_the_tail_within_its_bounds() {
        let slot = |micros| pace((0..2_000).map(|_| micros)).slot().as_micros();
        assert_eq!(slot(40), 500);
        assert!((2_000..2_500).contains(&slot(1_000)));
        assert_eq!(slot(500_000), 15_000);
        assert_eq!(pace((0..2_000).map(|_| 500_000)).settle(), Duration::from_millis(5));
    }

    #[test]
    fn one_in_a_thousand_does_not_count_and_old_samples_fade() {
        let rare = |n| if n % 1_100 == 0 { 10_000 } else { 1_000 };
        assert!(pace((1..8_000).map(rare)).slot() < Duration::from_millis(3));
        let calm = pace((0..200_000).map(|n| if n < 8_000 { 10_000 } else { 100 }));
        assert_eq!(calm.slot(), LEAST);
    }

    #[test]
    fn what_is_given_on_the_command_line_stays() {
        let timers = Timers { slot_adapts: false, ..Timers::default() };
        let mut pace = Pace::new(&timers);
        (0..2_000).for_each(|_| pace.sample(Instant::default(), Instant::from_micros(3_000)));
        assert_eq!(pace.slot(), timers.slot);
        assert!(pace.settle() > timers.settle);
    }
}
