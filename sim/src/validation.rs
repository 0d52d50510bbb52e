//! A lab run on real kernels, and the simulator on what it has measured, side by side.
//!
//! `clusterd lab run --record DIR` leaves in DIR a scenario of measured delays and costs,
//! and what came of the real run. The simulator repeats it with several seeds. Distributions are
//! compared and never single connections, and each difference has to stay in a band that is
//! stated with it.

pub mod lab;

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::file;
use crate::record::Nothing;
use crate::replication::{self, Variant};
use crate::statistics::Estimate;
use crate::summary::Summary;
use crate::table;
use crate::world::{Connection, World};
use lab::Lab;

/// The scenario of a recorded run.
const SCENARIO: &str = "scenario.toml";

/// By how much the simulator may be off: the greater of both counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Band {
    /// As a part of what the lab has.
    pub relative: f64,
    /// In the unit of the figure.
    pub absolute: f64,
}

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name, with its unit.
    pub figure: String,
    /// What the lab has.
    pub lab: f64,
    /// What the simulator has, the mean of its runs.
    pub simulator: f64,
    /// The 95 % confidence interval of that mean.
    pub interval_95: Option<(f64, f64)>,
    /// By how much the simulator has more.
    pub difference: f64,
    /// The band of that difference.
    pub band: Band,
    /// The difference lies within it.
    pub within: bool,
}

/// A comparison, to be printed, or written as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The command that the lab has run.
    pub command: String,
    /// The kernel of the lab, and how many processors all its hosts and clients have shared.
    pub kernel: String,
    /// See there.
    pub processors: u64,
    /// Connections of the lab, and of each run of the simulator.
    pub connections: u64,
    /// Seeds of the simulator's runs: the first, and how many.
    pub first_seed: u64,
    /// See there.
    pub runs: u32,
    /// The figures.
    pub rows: Vec<Row>,
    /// All are within their bands.
    pub within: bool,
}

/// What one run of the simulator has to say.
struct Run {
    figures: Vec<f64>,
}

/// The quantiles that are compared.
const QUANTILES: [(&str, f64, Band); 5] = [
    ("connect_p10_us", 0.1, Band { relative: 0.25, absolute: 0.0 }),
    ("connect_p50_us", 0.5, Band { relative: 0.25, absolute: 0.0 }),
    ("connect_p90_us", 0.9, Band { relative: 0.25, absolute: 0.0 }),
    ("connect_p99_us", 0.99, Band { relative: 0.5, absolute: 0.0 }),
    // One in a thousand is a few connections of a run.
    ("connect_p999_us", 0.999, Band { relative: 0.75, absolute: 0.0 }),
];

/// Simulates what a lab has recorded in this directory, and compares.
pub fn compare(directory: &Path, first_seed: u64, runs: u32, jobs: usize) -> Result<Comparison> {
    let lab = Lab::read(directory)?;
    let scenario = file::read(&directory.join(SCENARIO)).map_err(|error| anyhow!(error))?;
    scenario.check().map_err(|error| anyhow!("{}: {error}", directory.join(SCENARIO).display()))?;
    let pool = replication::threads(jobs)?;
    let seeds = replication::seeds(first_seed, runs)?;
    let mut done = Vec::new();
    let simulate = |_, variant: &Variant, seed| {
        let mut world = World::new(&variant.scenario, seed, Nothing);
        world.run();
        let mut connect: Vec<u64> = world.measured().filter_map(Connection::connect_time).collect();
        connect.sort_unstable();
        let figures = figures(&Summary::new(&variant.scenario, &world), &connect, &lab)
            .context("nobody was connected")?;
        Ok(Run { figures })
    };
    replication::run_all(&pool, &[Variant::base(scenario)], &seeds, simulate, |_, run| {
        done.push(run);
        Ok(())
    })?;
    let rows = rows(&lab, &done)?;
    Ok(Comparison {
        command: lab.command.clone(),
        kernel: lab.kernel.clone(),
        processors: lab.processors,
        connections: lab.connections,
        first_seed,
        runs,
        within: rows.iter().all(|row| row.within),
        rows,
    })
}

/// What is compared of a run of the simulator, in the order of [`rows`].
fn figures(summary: &Summary, connect: &[u64], lab: &Lab) -> Option<Vec<f64>> {
    let mut shares = summary.share_of_host.clone();
    shares.sort_by(f64::total_cmp);
    let mut figures = vec![
        summary.claims_per_connection,
        summary.second_syn_acks_per_100k,
        summary.syns_per_connection,
    ];
    for (_, share, _) in QUANTILES {
        figures.push(quantile(connect, share)? as f64 / 1e3);
    }
    figures.push(connect.iter().sum::<u64>() as f64 / connect.len() as f64 / 1e3);
    figures.extend(shares.into_iter().rev());
    figures.push(distance(connect, &lab.connect));
    Some(figures)
}

fn rows(lab: &Lab, runs: &[Run]) -> Result<Vec<Row>> {
    let any = runs.first().context("no run of the simulator")?;
    let mut wanted: Vec<(String, f64, Band)> = Vec::new();
    let mut want = |name: &str, value, band| wanted.push((name.to_owned(), value, band));
    let absolute = |absolute| Band { relative: 0.0, absolute };
    // With lost claims it scatters from run to run, of a lab as of the simulator.
    let claims = absolute((3.0 * deviation(runs, 0)).max(0.05));
    want("claims_per_connection", lab.claims_per_connection, claims);
    // Few of many: a count of the lab scatters by its root (Poisson), three of which are allowed.
    let each = 1e5 / lab.connections.max(1) as f64;
    let counted = lab.second_syn_acks_per_100k / each;
    let scatter = 3.0 * counted.max(1.0).sqrt() * each;
    let second = Band { relative: 0.5, absolute: scatter };
    want("second_syn_acks_per_100k", lab.second_syn_acks_per_100k, second);
    want("syns_per_connection", lab.syns_per_connection, absolute(0.01));
    for (name, share, band) in QUANTILES {
        let value = quantile(&lab.connect, share).context("the lab has connected nobody")?;
        want(name, value as f64 / 1e3, band);
    }
    let mean = lab.connect.iter().sum::<u64>() as f64 / lab.connect.len() as f64 / 1e3;
    want("connect_mean_us", mean, Band { relative: 0.25, absolute: 0.0 });
    let mut shares = lab.share_of_host.clone();
    shares.sort_by(f64::total_cmp);
    for (number, share) in (1..).zip(shares.into_iter().rev()) {
        want(&format!("share_of_host_by_size_{number}"), share, absolute(0.05));
    }
    want("connect_ks_distance", 0.0, absolute(0.25));
    anyhow::ensure!(
        wanted.len() == any.figures.len(),
        "the lab has {} hosts, its scenario another number",
        lab.share_of_host.len()
    );
    Ok(wanted.into_iter().enumerate().map(|(at, it)| row(at, it, runs)).collect())
}

fn row(at: usize, (figure, lab, band): (String, f64, Band), runs: &[Run]) -> Row {
    let values: Vec<f64> = runs.iter().map(|run| run.figures[at]).collect();
    let estimate = Estimate::of(&values);
    let simulator = estimate.map_or(f64::NAN, |estimate| estimate.mean);
    let difference = simulator - lab;
    Row {
        figure,
        lab,
        simulator,
        interval_95: estimate.and_then(|estimate| estimate.interval_95),
        difference,
        band,
        within: difference.abs() <= band.absolute.max(band.relative * lab.abs()),
    }
}

/// The standard deviation of a figure from run to run; 0 of a single one.
fn deviation(runs: &[Run], at: usize) -> f64 {
    let values: Vec<f64> = runs.iter().map(|run| run.figures[at]).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / values.len().saturating_sub(1).max(1) as f64).sqrt()
}

/// The least value that at least this share is not above.
fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

/// The Kolmogorov-Smirnov distance: the greatest difference of two distribution functions.
fn distance(a: &[u64], b: &[u64]) -> f64 {
    let part = |sorted: &[u64], value: u64| {
        sorted.partition_point(|&it| it <= value) as f64 / sorted.len() as f64
    };
    let at = a.iter().chain(b);
    at.map(|&value| (part(a, value) - part(b, value)).abs()).fold(0.0, f64::max)
}

impl Comparison {
    /// The table for people.
    pub fn to_text(&self) -> String {
        let Self { command, kernel, processors, connections, runs, .. } = self;
        let number = table::number;
        let rows = self.rows.iter().map(|row| {
            let Band { relative, absolute } = row.band;
            let allowed = absolute.max(relative * row.lab.abs());
            let verdict = if row.within { "" } else { "OUTSIDE" };
            vec![
                row.figure.clone(),
                number(row.lab),
                number(row.simulator),
                number(row.difference),
                format!("+-{}", number(allowed)),
                verdict.to_owned(),
            ]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        let head = ["figure", "lab", "simulator", "difference", "allowed", ""];
        format!(
            "lab: {command}\n{connections} connections, Linux {kernel}, all on {processors} processors\n\
             simulator: {runs} runs\n\n{}",
            table::lay_out(&head, &rows)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_the_greatest_gap() {
        assert_eq!(distance(&[1, 2, 3, 4], &[1, 2, 3, 4]), 0.0);
        assert_eq!(distance(&[1, 2, 3, 4], &[5, 6]), 1.0);
        assert_eq!(distance(&[1, 2, 3, 4], &[3, 4]), 0.5);
        assert_eq!(distance(&[1, 9], &[1, 1, 1, 9]), 0.25);
    }

    #[test]
    fn a_band_is_the_greater_of_its_two_parts() {
        let runs = [Run { figures: vec![110.0] }];
        let within = |relative, absolute| {
            row(0, ("x".to_owned(), 100.0, Band { relative, absolute }), &runs).within
        };
        assert!(within(0.1, 0.0) && within(0.0, 10.0) && within(0.1, 1.0));
        assert!(!within(0.09, 9.0));
    }
}
