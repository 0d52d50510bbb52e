//! Carrying out an experiment, and asking what came out.

use std::time::Duration;

use anyhow::Result;
use rayon::ThreadPool;

use super::experiment::{Effort, Experiment, Quantity};
use crate::record::Nothing;
use crate::replication::{self, Variant};
use crate::result::{Details, IntervalRow, RunResult};
use crate::scenario::{Scenario, parameter};
use crate::setting::Setting;
use crate::statistics::Estimate;
use crate::summary::Summary;
use crate::sweep::Axis;

/// An experiment that was done.
pub struct Outcome {
    /// What was asked.
    pub experiment: Experiment,
    /// The points of each curve.
    pub curves: Vec<Vec<Point>>,
}

/// A scenario that was simulated.
pub struct Point {
    /// The value that it belongs to, if the curve has several.
    pub value: Option<String>,
    /// That value as a number, in the unit of its axis.
    pub x: Option<f64>,
    /// The scenario.
    pub scenario: Scenario,
    /// Its runs, in the order of their seeds.
    pub runs: Vec<RunResult>,
    /// Connect times of all runs, in order, in nanoseconds; if they are wanted.
    pub times: Vec<u64>,
    /// The time series of each run; if they are wanted.
    pub intervals: Vec<Vec<IntervalRow>>,
}

impl Point {
    /// The mean of a quantity over runs, with its interval.
    pub fn estimate(&self, quantity: &Quantity) -> Option<Estimate> {
        let values = self.runs.iter().filter_map(|run| (quantity.of)(&run.summary));
        Estimate::of(&values.collect::<Vec<f64>>())
    }

    /// What a quantity that was never seen is below, most likely.
    pub fn bound(&self, quantity: &Quantity) -> Option<f64> {
        let connections = self.sum(|run| run.connections as f64);
        let one = quantity.rare.filter(|_| connections > 0.0)?;
        let seen = self.estimate(quantity).is_some_and(|estimate| estimate.mean > 0.0);
        (!seen).then_some(3.0 * one / connections)
    }

    /// The value of what changes along the curve, in the unit of its column, if it is a number.
    pub fn over_number(&self, over: Option<&Axis>) -> Option<f64> {
        let parameter = parameter(&over?.key).ok()?;
        (parameter.number)(&self.scenario)
    }

    /// The sum of something over all runs.
    pub fn sum(&self, of: fn(&Summary) -> f64) -> f64 {
        self.runs.iter().map(|run| of(&run.summary)).sum()
    }

    /// The rows of all runs that begin within these milliseconds, each with the others of its time.
    pub fn rows(&self, from: u64, to: u64) -> Vec<Vec<&IntervalRow>> {
        let length = self.intervals.iter().map(Vec::len).max().unwrap_or_default();
        let at = |number: usize| -> Vec<&IntervalRow> {
            self.intervals.iter().filter_map(|rows| rows.get(number)).collect()
        };
        let within = |rows: &Vec<&IntervalRow>| {
            let start = rows.first().map(|row| row.start.as_millis() as u64);
            start.is_some_and(|start| (from..to).contains(&start))
        };
        (0..length).map(at).filter(within).collect()
    }

    /// A sum over all rows that begin within these milliseconds.
    pub fn within(&self, from: u64, to: u64, of: fn(&IntervalRow) -> u64) -> u64 {
        self.rows(from, to).iter().flatten().map(|row| of(row)).sum()
    }
}

impl Outcome {
    /// The points of a curve.
    pub fn curve(&self, name: &str) -> &[Point] {
        let curves = self.experiment.curves.iter().zip(&self.curves);
        let found = { curves }.find(|(curve, _)| curve.name == name);
        found.map_or(&[], |(_, points)| points)
    }

    /// The point of a curve for a value; for a curve of one scenario the value is empty.
    pub fn point(&self, curve: &str, value: &str) -> Option<&Point> {
        let points = self.curve(curve);
        points.iter().find(|point| point.value.as_deref().unwrap_or_default() == value)
    }

    /// The mean of a number at a point.
    pub fn mean(&self, curve: &str, value: &str, of: fn(&Summary) -> Option<f64>) -> Option<f64> {
        let quantity = Quantity { label: "", of, rare: None };
        self.point(curve, value)?.estimate(&quantity).map(|estimate| estimate.mean)
    }
}

/// What is kept of a run.
struct Kept {
    run: RunResult,
    times: Vec<u64>,
    intervals: Vec<IntervalRow>,
}

/// Does an experiment. What comes out does not depend on the number of threads.
pub fn carry_out(
    experiment: Experiment,
    pool: &ThreadPool,
    effort: Effort,
    mut progress: impl FnMut(),
) -> Result<Outcome> {
    let mut curves = Vec::new();
    let mut variants = Vec::new();
    for curve in &experiment.curves {
        let mut points = Vec::new();
        for (value, scenario) in curve.scenarios()? {
            variants.push(Variant { name: curve.name.clone(), scenario: scenario.clone() });
            let scale = experiment.along.map_or(1.0, |along| along.scale);
            let mut point = Point {
                value,
                x: None,
                scenario,
                runs: Vec::new(),
                times: Vec::new(),
                intervals: Vec::new(),
            };
            // A delay that is always the same is a time.
            let time = || Duration::read(point.value.as_deref()?).ok()?.number();
            let number = point.over_number(curve.over.as_ref()).or_else(time);
            point.x = number.map(|number| number * scale);
            points.push(point);
        }
        curves.push(points);
    }
    let (times, intervals) = (experiment.needs_times(), experiment.needs_intervals());
    let run = |_, variant: &Variant, seed| {
        if !times && !intervals {
            let run = RunResult::of(&variant.scenario, seed);
            return Ok(Kept { run, times: Vec::new(), intervals: Vec::new() });
        }
        let (run, details, Nothing) = RunResult::with_details(&variant.scenario, seed, Nothing);
        let Details { connections, hosts: _, intervals: rows } = details;
        Ok(Kept {
            run,
            times: connections.iter().filter_map(|row| row.connect).filter(|_| times).collect(),
            intervals: if intervals { rows } else { Vec::new() },
        })
    };
    let seeds = replication::seeds(effort.seed, effort.runs)?;
    let mut points: Vec<&mut Point> = curves.iter_mut().flatten().collect();
    replication::run_all(pool, &variants, &seeds, run, |number, kept| {
        let Kept { run, times, intervals } = kept;
        let point = &mut points[number];
        point.runs.push(run);
        point.times.extend(times);
        if !intervals.is_empty() {
            point.intervals.push(intervals);
        }
        progress();
        Ok(())
    })?;
    curves.iter_mut().flatten().for_each(|point| point.times.sort_unstable());
    Ok(Outcome { experiment, curves })
}
