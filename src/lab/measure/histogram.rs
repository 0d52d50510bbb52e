//! Histograms of delays in the form that the simulator draws from (`sim/src/measured.rs`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Digits of a bucket's bound, in nanoseconds: buckets are at most 1 % wide.
const DIGITS: u32 = 3;

/// How often which delay was measured.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// By upper bound, in nanoseconds.
    buckets: BTreeMap<u64, u64>,
    sum: Duration,
}

impl Histogram {
    /// Adds a measurement.
    pub fn add(&mut self, delay: Duration) {
        let (_, upper) = bounds(delay.as_nanos() as u64);
        *self.buckets.entry(upper).or_default() += 1;
        self.sum += delay;
    }

    /// Adds the measurements of another.
    pub fn merge(&mut self, other: &Self) {
        for (&bound, &count) in &other.buckets {
            *self.buckets.entry(bound).or_default() += count;
        }
        self.sum += other.sum;
    }

    /// Measurements.
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// Their mean in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.sum.as_secs_f64() * 1e6 / self.count().max(1) as f64
    }

    /// The bound that this share of all is not above, in microseconds.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.buckets.iter().find(|&(_, count)| {
            seen += count;
            seen >= wanted
        });
        reached.map_or(0.0, |(&bound, _)| bound as f64 / 1e3)
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = "delay_us,count\n".to_owned();
        let mut last = 0;
        let mut line = |bound: u64, count: u64| {
            let microseconds = bound as f64 / 1e3;
            writeln!(text, "{microseconds},{count}").expect("a string takes all");
        };
        for (&upper, &count) in &self.buckets {
            let (lower, _) = bounds(upper);
            // Nothing lies between the bucket before and this one.
            if lower > last {
                line(lower, 0);
            }
            line(upper, count);
            last = upper;
        }
        text
    }
}

/// The bucket of a delay: above the first bound, not above the second.
fn bounds(nanoseconds: u64) -> (u64, u64) {
    // A power of ten is the last of its bucket.
    let digits = nanoseconds.saturating_sub(1).max(1).ilog10() + 1;
    let width = 10u64.pow(digits.saturating_sub(DIGITS)).max(100);
    let upper = nanoseconds.div_ceil(width).max(1) * width;
    (upper - width, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_measurements_and_nothing_between_buckets_is_drawn() {
        for delay in [0, 1, 99, 100, 101, 1_000, 1_001, 99_999, 100_000, 100_001, 7_654_321] {
            let (lower, upper) = bounds(delay);
            assert!(lower < delay.max(1) && delay <= upper, "{delay}: {lower} to {upper}");
            assert_eq!(bounds(upper), (lower, upper), "{delay}");
        }
        let mut histogram = Histogram::default();
        for nanoseconds in [0, 150, 200, 50_030, 50_090] {
            histogram.add(Duration::from_nanos(nanoseconds));
        }
        assert_eq!(histogram.to_text(), "delay_us,count\n0.1,1\n0.2,2\n50,0\n50.1,2\n");
        assert_eq!((histogram.count(), histogram.quantile_us(0.5)), (5, 0.2));
        assert!((histogram.mean_us() - 20.094).abs() < 1e-9);
    }
}
