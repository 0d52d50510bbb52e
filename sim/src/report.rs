//! The report: experiments, their figures, and a page that shows them.

mod experiments;
mod page;
mod plot;

use anyhow::{Context, Result};
use rayon::ThreadPool;

use crate::replication::{self, Replication, Variant};
use crate::result::RunResult;
use crate::scenario::{PARAMETERS, Scenario};
use crate::statistics::Estimate;
use crate::summary::{FIGURES, Figure};

pub use experiments::experiments;
pub use page::page;

/// One axis of a figure.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: &'static str,
    /// Equal steps multiply.
    pub logarithmic: bool,
}

/// One scenario of an experiment.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The curve that it belongs to.
    pub series: String,
    /// Where on the first axis it lies.
    pub x: f64,
    /// What is simulated.
    pub scenario: Scenario,
}

/// What one wants to know, and what is simulated to find out.
pub struct Experiment {
    /// Its name.
    pub title: &'static str,
    /// The question, and what the figure shows.
    pub shows: &'static str,
    /// Where the model says less than reality would.
    pub weak: &'static str,
    /// The parameter that changes along each curve.
    pub x: Axis,
    /// The figure that is measured.
    pub y: Axis,
    /// Its name among [`FIGURES`].
    pub figure: &'static str,
    /// Multiplies the figure, for another unit.
    pub scale: f64,
    /// All scenarios, curve by curve.
    pub cells: Vec<Cell>,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Where on the first axis.
    pub x: f64,
    /// The mean over runs, with its interval.
    pub y: Estimate,
}

/// A curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points, in order.
    pub points: Vec<Point>,
    /// The command that repeats its first point.
    pub command: String,
}

/// An experiment that was done.
pub struct Outcome {
    /// What was asked.
    pub experiment: Experiment,
    /// What came out.
    pub series: Vec<Series>,
}

/// How much is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Runs of each scenario.
    pub runs: u32,
    /// Seed of the first.
    pub seed: u64,
}

/// Does an experiment.
pub fn carry_out(
    experiment: Experiment,
    pool: &ThreadPool,
    effort: Effort,
    mut progress: impl FnMut(),
) -> Result<Outcome> {
    let figure: &Figure = FIGURES
        .iter()
        .find(|figure| figure.name == experiment.figure)
        .with_context(|| format!("no figure is called {}", experiment.figure))?;
    let variants: Vec<Variant> = experiment
        .cells
        .iter()
        .map(|cell| Variant { name: cell.series.clone(), scenario: cell.scenario.clone() })
        .collect();
    let seeds = replication::seeds(effort.seed, effort.runs)?;
    let mut done: Vec<Replication> = variants
        .iter()
        .map(|variant| Replication { variant: variant.name.clone(), runs: Vec::new() })
        .collect();
    let run = |_, variant: &Variant, seed| Ok(RunResult::of(&variant.scenario, seed));
    replication::run_all(pool, &variants, &seeds, run, |number, result| {
        done[number].runs.push(result);
        progress();
        Ok(())
    })?;
    let mut series = Vec::<Series>::new();
    for (cell, replication) in experiment.cells.iter().zip(&done) {
        if series.last().is_none_or(|last| last.name != cell.series) {
            let command = command(&cell.scenario, effort);
            series.push(Series { name: cell.series.clone(), points: Vec::new(), command });
        }
        let estimate = replication.estimate(figure).map(|it| scaled(it, experiment.scale));
        if let (Some(y), Some(last)) = (estimate, series.last_mut()) {
            last.points.push(Point { x: cell.x, y });
        }
    }
    Ok(Outcome { experiment, series })
}

fn scaled(estimate: Estimate, scale: f64) -> Estimate {
    let interval_95 = estimate.interval_95.map(|(from, to)| (from * scale, to * scale));
    Estimate { mean: estimate.mean * scale, interval_95, ..estimate }
}

/// The command that repeats a scenario: whatever is not at its default.
fn command(scenario: &Scenario, effort: Effort) -> String {
    let default = Scenario::default();
    let mut words = vec!["clusterd-sim run".to_owned()];
    for parameter in PARAMETERS {
        let value = (parameter.show)(scenario);
        if value != (parameter.show)(&default) {
            let quote = if value.contains(' ') { "'" } else { "" };
            words.push(format!("--set {quote}{}={value}{quote}", parameter.key));
        }
    }
    words.push(format!("--seed {} --runs {}", effort.seed, effort.runs));
    words.join(" ")
}
