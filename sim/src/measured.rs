//! Measured delays: a histogram as `clusterd lab` writes it, to be drawn from.
//!
//! A file has a line `delay_us,count` and then one line for each bucket: its
//! upper bound in microseconds and how many measurements fell into it. What is
//! drawn lies anywhere between the bounds of its bucket.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::chance::Chance;

/// How often which delay was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bound in nanoseconds, and how many are at or below it; in order.
    buckets: Vec<(u64, u64)>,
}

/// A day, in microseconds.
const LONGEST: f64 = 86_400e6;

impl Histogram {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("read the histogram {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("read the histogram {}", path.display()))
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        ensure!(
            lines.next().map(str::trim) == Some("delay_us,count"),
            "line 1 is not `delay_us,count`"
        );
        let (mut buckets, mut total) = (Vec::<(u64, u64)>::new(), 0);
        for (number, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = || format!("line {}: `{line}`", number + 2);
            let (bound, count) = line.split_once(',').with_context(at)?;
            let microseconds: f64 = bound.trim().parse().with_context(at)?;
            let count: u64 = count.trim().parse().with_context(at)?;
            ensure!(
                (0.0..=LONGEST).contains(&microseconds),
                "{}: a delay is between 0 and {LONGEST} us",
                at()
            );
            let bound = (microseconds * 1_000.0) as u64;
            ensure!(buckets.last().is_none_or(|last| bound > last.0), "{}: not in order", at());
            total = u64::checked_add(total, count)
                .with_context(|| format!("{}: the counts add up to more than 2^64", at()))?;
            buckets.push((bound, total));
        }
        ensure!(total > 0, "nothing was measured");
        Ok(Self { buckets })
    }

    fn total(&self) -> u64 {
        self.buckets.last().map_or(0, |last| last.1)
    }

    /// The bounds of the bucket that holds this measurement, in order of length.
    fn bounds(&self, index: usize) -> (u64, u64) {
        let lower = index.checked_sub(1).map_or(0, |before| self.buckets[before].0);
        (lower, self.buckets[index].0)
    }

    /// Draws a delay in nanoseconds.
    pub fn draw(&self, chance: &mut Chance) -> u64 {
        let drawn = chance.below(self.total());
        let index = self.buckets.partition_point(|&(_, until)| until <= drawn);
        let (lower, upper) = self.bounds(index);
        lower + chance.below(upper - lower) + 1
    }

    /// The mean in nanoseconds, each in the middle of its bucket.
    pub fn mean(&self) -> f64 {
        let mut before = 0;
        let sums = self.buckets.iter().enumerate().map(|(index, &(_, until))| {
            let (lower, upper) = self.bounds(index);
            let count = until - std::mem::replace(&mut before, until);
            count as f64 * (lower + upper) as f64 / 2.0
        });
        sums.sum::<f64>() / self.total() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Entity;

    #[test]
    fn draws_follow_the_counts() {
        let histogram = Histogram::parse("delay_us,count\n10,100\n20,0\n30,300\n").unwrap();
        let mut chance = Chance::new(1, Entity::Load);
        let draws: Vec<u64> = (0..40_000).map(|_| histogram.draw(&mut chance)).collect();
        let short = draws.iter().filter(|&&delay| delay <= 10_000).count();
        assert!((9_600..10_400).contains(&short), "{short}");
        assert!(draws.iter().all(|&delay| (1..=30_000).contains(&delay)));
        assert_eq!(histogram.mean(), (100.0 * 5_000.0 + 300.0 * 25_000.0) / 400.0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("10,1\n", "line 1 is not"),
            ("delay_us,count\nten,1\n", "line 2: `ten,1`"),
            ("delay_us,count\n10,1\n5,1\n", "line 3: `5,1`: not in order"),
            ("delay_us,count\nNaN,1\n", "line 2: `NaN,1`: a delay is between"),
            ("delay_us,count\n-5,1\n", "line 2: `-5,1`: a delay is between"),
            ("delay_us,count\n1,18446744073709551615\n2,1\n", "line 3: `2,1`: the counts add up"),
            ("delay_us,count\n", "nothing was measured"),
        ] {
            let error = format!("{:#}", Histogram::parse(text).unwrap_err());
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
