//! Means over runs, and how sure they are.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// How sure an interval is.
const CONFIDENCE: f64 = 0.95;

/// The mean of independent runs, with its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The 95 % interval of Student's t; `None` of a single run, which says nothing about others.
    pub interval_95: Option<(f64, f64)>,
    /// Runs that have this figure.
    pub runs: usize,
}

impl Estimate {
    /// Of these values, one from each run; `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let runs = values.len();
        if runs == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / runs as f64;
        let interval_95 = half_width(values, mean).map(|half| (mean - half, mean + half));
        Some(Self { mean, interval_95, runs })
    }

    /// Of the differences between variants that had the same seeds, where both have a value.
    pub fn of_differences(base: &[Option<f64>], variant: &[Option<f64>]) -> Option<Self> {
        let pairs = base.iter().zip(variant);
        let differences: Vec<f64> =
            pairs.filter_map(|(base, variant)| Some((*variant)? - (*base)?)).collect();
        Self::of(&differences)
    }
}

fn half_width(values: &[f64], mean: f64) -> Option<f64> {
    let freedom = values.len().checked_sub(1).filter(|&freedom| freedom > 0)? as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom;
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let quantile = student.inverse_cdf(0.5 + CONFIDENCE / 2.0);
    Some(quantile * (variance / values.len() as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_that_of_students_t() {
        // Deviation 1 and n values: half the width is t / sqrt(n); t from printed tables.
        let sqrt = std::f64::consts::SQRT_2;
        for (values, t) in [
            (vec![-1.0 / sqrt, 1.0 / sqrt], 12.706_205),
            (vec![-1.0, 0.0, 1.0], 4.302_653),
            (
                (0..10)
                    .map(|i| if i % 2 == 0 { 0.9_f64.sqrt() } else { -0.9_f64.sqrt() })
                    .collect(),
                2.262_157,
            ),
        ] {
            let n = values.len() as f64;
            let estimate = Estimate::of(&values).unwrap();
            let (low, high) = estimate.interval_95.unwrap();
            assert!((high - t / n.sqrt()).abs() < 1e-5, "{n}: {high}");
            assert!((low + high).abs() < 1e-9 && estimate.mean.abs() < 1e-9);
        }
    }

    #[test]
    fn one_run_has_no_interval_and_none_no_mean() {
        let estimate = Estimate::of(&[3.0]).unwrap();
        assert_eq!((estimate.mean, estimate.interval_95, estimate.runs), (3.0, None, 1));
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[2.0, 2.0]).unwrap().interval_95, Some((2.0, 2.0)));
    }

    #[test]
    fn differences_are_of_pairs_that_are_complete() {
        let base = [Some(1.0), Some(5.0), None, Some(9.0)];
        let variant = [Some(2.0), Some(6.0), Some(7.0), None];
        let estimate = Estimate::of_differences(&base, &variant).unwrap();
        assert_eq!((estimate.mean, estimate.runs), (1.0, 2));
        assert_eq!(estimate.interval_95, Some((1.0, 1.0)));
    }
}
