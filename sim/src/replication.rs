//! Several runs of one scenario and of variants of it, in parallel, in a fixed order.
//!
//! Run `i` has the seed `first + i`, in every variant: what is drawn for arrivals and delays
//! is the same (*common random numbers*), so differences are taken run by run.

use anyhow::{Context, Result, anyhow, ensure};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::result::RunResult;
use crate::scenario::Scenario;
use crate::statistics::Estimate;
use crate::summary::{FIGURES, Figure};

/// The name of the scenario as it is.
pub const BASE: &str = "base";

/// A scenario under a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// [`BASE`], or the settings that make the difference.
    pub name: String,
    /// The scenario.
    pub scenario: Scenario,
}

impl Variant {
    /// The scenario as it is.
    pub fn base(scenario: Scenario) -> Self {
        Self { name: BASE.to_owned(), scenario }
    }

    /// A variant of `base` with other values: `KEY=VALUE`, several of them separated by `;`.
    pub fn parse(base: &Scenario, settings: &str) -> Result<Self, String> {
        let mut scenario = base.clone();
        for setting in settings.split(';') {
            let wanted = || format!("`{setting}`: wanted KEY=VALUE");
            let (key, value) = setting.split_once('=').ok_or_else(wanted)?;
            scenario.set(key.trim(), value.trim())?;
        }
        scenario.check()?;
        Ok(Self { name: settings.to_owned(), scenario })
    }
}

/// The seeds of so many runs.
pub fn seeds(first: u64, runs: u32) -> Result<Vec<u64>> {
    ensure!(runs > 0, "--runs 0: wanted at least 1");
    let last = first.checked_add(u64::from(runs - 1));
    let last =
        last.ok_or_else(|| anyhow!("--seed {first}: {runs} runs from there on have no seeds"))?;
    Ok((first..=last).collect())
}

/// More threads than any machine has processors only keep each other from running.
const JOBS_MOST: usize = 4_096;

/// So many threads; as many as there are processors for 0.
pub fn threads(jobs: usize) -> Result<ThreadPool> {
    ensure!(
        jobs <= JOBS_MOST,
        "--jobs {jobs}: wanted at most {JOBS_MOST}, or 0 for one each processor"
    );
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build();
    pool.with_context(|| format!("start {jobs} threads"))
}

/// Does `run` for every variant and seed, some at a time in parallel, and hands what it gives to
/// `take` in order: the seeds of the first variant, then those of the next.
///
/// At most four results for each thread wait for their turn, however many runs there are.
pub fn run_all<T: Send>(
    pool: &ThreadPool,
    variants: &[Variant],
    seeds: &[u64],
    run: impl Fn(usize, &Variant, u64) -> Result<T> + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let numbered = variants.iter().enumerate();
    let tasks: Vec<_> = numbered
        .flat_map(|(number, variant)| seeds.iter().map(move |&seed| (number, variant, seed)))
        .collect();
    for batch in tasks.chunks(4 * pool.current_num_threads()) {
        let done: Result<Vec<(usize, T)>> = pool.install(|| {
            let runs = batch.par_iter().map(|&(number, variant, seed)| {
                run(number, variant, seed).map(|done| (number, done))
            });
            runs.collect()
        });
        for (number, done) in done? {
            take(number, done)?;
        }
    }
    Ok(())
}

/// All runs of a variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// The name of the variant.
    pub variant: String,
    /// Its runs, in the order of their seeds.
    pub runs: Vec<RunResult>,
}

impl Replication {
    /// The mean of a figure over the runs that have it.
    pub fn estimate(&self, figure: &Figure) -> Option<Estimate> {
        let values: Vec<f64> = self.values(figure).into_iter().flatten().collect();
        Estimate::of(&values)
    }

    /// By how much a figure is greater than in `base`, run by run.
    pub fn difference(&self, base: &Self, figure: &Figure) -> Option<Estimate> {
        Estimate::of_differences(&base.values(figure), &self.values(figure))
    }

    fn values(&self, figure: &Figure) -> Vec<Option<f64>> {
        self.runs.iter().map(|run| (figure.of)(&run.summary)).collect()
    }

    /// Each figure with what `estimate` makes of it.
    pub fn each_figure(
        &self,
        estimate: impl Fn(&Self, &Figure) -> Option<Estimate>,
    ) -> Vec<(&'static Figure, Option<Estimate>)> {
        FIGURES.iter().map(|figure| (figure, estimate(self, figure))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_on_any_number_of_threads() {
        let variants: Vec<Variant> = ["base", "a", "b"]
            .map(|name| Variant { name: name.to_owned(), scenario: Scenario::default() })
            .into();
        let seeds = seeds(u64::MAX - 4, 5).unwrap();
        for jobs in [1, 2, 7] {
            let mut taken = Vec::new();
            let run = |number, _: &Variant, seed| Ok((number, seed));
            run_all(&threads(jobs).unwrap(), &variants, &seeds, run, |_, done| {
                taken.push(done);
                Ok(())
            })
            .unwrap();
            let expected: Vec<_> =
                (0..3).flat_map(|number| seeds.iter().map(move |&seed| (number, seed))).collect();
            assert_eq!(taken, expected, "{jobs} threads");
        }
    }

    #[test]
    fn seeds_do_not_wrap() {
        assert_eq!(seeds(7, 3).unwrap(), [7, 8, 9]);
        assert!(seeds(u64::MAX, 2).is_err());
        assert!(seeds(1, 0).is_err());
    }

    #[test]
    fn a_variant_is_checked_like_a_scenario() {
        let base = Scenario::default();
        let variant = Variant::parse(&base, "cluster.hosts=5; service.speeds=8,4").unwrap();
        assert_eq!((variant.scenario.hosts, variant.scenario.speeds.len()), (5, 2));
        for (settings, word) in [
            ("cluster.hosts", "wanted KEY=VALUE"),
            ("cluster.host=3", "did you mean `cluster.hosts`?"),
            ("cluster.hosts=99", "between 1 and 64"),
            ("service.speeds=0", "without any speed"),
        ] {
            let error = Variant::parse(&base, settings).unwrap_err();
            assert!(error.contains(word), "{settings}: {error}");
        }
    }
}
