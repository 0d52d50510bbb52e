//! Exact quantiles of connect times.

use std::time::Duration;

use serde::Serialize;

/// Connect times, `None` where there were none to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Median, in microseconds.
    pub connect_p50_us: Option<f64>,
    /// 90th percentile, in microseconds.
    pub connect_p90_us: Option<f64>,
    /// 99th percentile, in microseconds.
    pub connect_p99_us: Option<f64>,
    /// 99.9th percentile, in microseconds.
    pub connect_p999_us: Option<f64>,
    /// Maximum, in microseconds.
    pub connect_max_us: Option<f64>,
}

impl Latency {
    /// The quantiles of these times.
    pub fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<_> = times.collect();
        sorted.sort_unstable();
        let at = |quantile| nearest_rank(&sorted, quantile).map(microseconds);
        Self {
            connect_p50_us: at(0.5),
            connect_p90_us: at(0.9),
            connect_p99_us: at(0.99),
            connect_p999_us: at(0.999),
            connect_max_us: at(1.0),
        }
    }
}

/// The smallest value that is at least as large as this share of all values.
fn nearest_rank(sorted: &[Duration], quantile: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// A duration in microseconds, to a tenth.
fn microseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

/// A number of microseconds as people read it.
pub fn human(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let times = (1..=1000).rev().map(Duration::from_micros);
        let latency = Latency::of(times);
        assert_eq!(latency.connect_p50_us, Some(500.0));
        assert_eq!(latency.connect_p90_us, Some(900.0));
        assert_eq!(latency.connect_p99_us, Some(990.0));
        assert_eq!(latency.connect_p999_us, Some(999.0));
        assert_eq!(latency.connect_max_us, Some(1000.0));
    }

    #[test]
    fn few_values_have_quantiles_and_none_has_none() {
        let one = Latency::of([Duration::from_nanos(1_260)].into_iter());
        assert_eq!((one.connect_p50_us, one.connect_max_us), (Some(1.3), Some(1.3)));
        assert_eq!(Latency::of(std::iter::empty()), Latency::default());
    }
}
