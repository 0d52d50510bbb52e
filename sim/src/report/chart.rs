//! From what came out to what is drawn.

use anyhow::{Result, ensure};

use super::experiment::{Chart, Experiment, Kind, Moment, Quantity};
use super::outcome::{Outcome, Point};
use super::plot::{self, Axis, Bars, Line, Lines, Mark};
use super::ticks::Scale;

/// Shares of connections at which a distribution is drawn.
const STEPS: usize = 400;
/// Timelines begin so long before the first fault, in milliseconds.
const BEFORE: u64 = 1_000;

/// Draws a chart.
pub fn draw(outcome: &Outcome, chart: &Chart) -> Result<String> {
    let experiment = &outcome.experiment;
    let named = || {
        let curves = experiment.curves.iter().zip(&outcome.curves);
        curves.filter(|(curve, _)| (chart.only)(&curve.name))
    };
    ensure!(named().next().is_some(), "a figure of {} has no curve", experiment.id);
    let scale = Scale::new(chart.logarithmic);
    let lines = |of: &dyn Fn(&[Point]) -> Vec<Option<Mark>>| -> Vec<Line> {
        named()
            .map(|(curve, points)| Line { name: curve.name.clone(), marks: of(points) })
            .collect()
    };
    match &chart.kind {
        Kind::Lines(quantity) => plot::lines(&Lines {
            x: along(experiment),
            y: Axis { label: quantity.label.to_owned(), scale },
            lines: lines(&|points| points.iter().map(|point| mark(point, quantity)).collect()),
            marked: true,
            events: Vec::new(),
        }),
        Kind::Distribution => plot::lines(&Lines {
            x: Axis {
                label: "time until the client is connected, us".to_owned(),
                scale: Scale::Logarithmic,
            },
            y: Axis { label: "connections that took no longer, %".to_owned(), scale },
            lines: lines(&|points| points.iter().flat_map(distribution).collect()),
            marked: false,
            events: Vec::new(),
        }),
        Kind::Tail => plot::lines(&Lines {
            x: Axis {
                label: "time until the client is connected, us".to_owned(),
                scale: Scale::Logarithmic,
            },
            y: Axis { label: "connections that took longer, %".to_owned(), scale },
            lines: lines(&|points| points.iter().flat_map(tail).collect()),
            marked: false,
            events: Vec::new(),
        }),
        Kind::Timeline(moment) => {
            let faults = || experiment.curves.iter().flat_map(|curve| &curve.faults);
            let mut events: Vec<(f64, String)> = Vec::new();
            for fault in faults() {
                let (at, what) = fault.split_once(' ').unwrap_or((fault, ""));
                let at = humantime::parse_duration(at)?.as_secs_f64();
                if !events.iter().any(|(_, other)| other == what) {
                    events.push((at, what.to_owned()));
                }
            }
            let first = events.first().map_or(0, |(at, _)| (at * 1e3) as u64);
            let from = first.saturating_sub(BEFORE);
            plot::lines(&Lines {
                x: Axis { label: "time, s".to_owned(), scale: Scale::Linear },
                y: Axis { label: moment.label.to_owned(), scale },
                lines: lines(&|points| {
                    points.iter().flat_map(|it| timeline(it, moment, from)).collect()
                }),
                marked: false,
                events,
            })
        }
        Kind::Bars(parts) => {
            let rows = named().flat_map(|(curve, points)| {
                points.iter().map(move |point| {
                    let name = match &point.value {
                        Some(value) => format!("{}, {value}", curve.name),
                        None => curve.name.clone(),
                    };
                    let length = |part: &Quantity| {
                        point.estimate(part).map_or(0.0, |estimate| estimate.mean)
                    };
                    (name, parts.iter().map(length).collect())
                })
            });
            plot::bars(&Bars {
                label: "percent of the connections that several hosts have answered".to_owned(),
                parts: parts.iter().map(|part| part.label.to_owned()).collect(),
                rows: rows.collect(),
            })
        }
    }
}

fn along(experiment: &Experiment) -> Axis {
    let (label, logarithmic) =
        experiment.along.map_or(("", false), |along| (along.label, along.logarithmic));
    Axis { label: label.to_owned(), scale: Scale::new(logarithmic) }
}

fn mark(point: &Point, quantity: &Quantity) -> Option<Mark> {
    let x = point.x?;
    let estimate = point.estimate(quantity)?;
    match point.bound(quantity) {
        Some(y) => Some(Mark { x, y, interval: None, bound: true }),
        None => {
            let interval = estimate.interval_95;
            Some(Mark { x, y: estimate.mean, interval, bound: false })
        }
    }
}

/// A place of a distribution: the time, in microseconds, and how many percent.
fn place(time: u64, percent: f64) -> Option<Mark> {
    Some(Mark { x: time as f64 / 1e3, y: percent, interval: None, bound: false })
}

/// The connect times that are no longer than so many percent of all; connections that were never
/// connected are longer than any time.
pub fn distribution(point: &Point) -> Vec<Option<Mark>> {
    let all = point.sum(|run| run.connections as f64).max(1.0);
    let times = &point.times;
    let indices = (0..=STEPS).map(|step| step * times.len().saturating_sub(1) / STEPS);
    let mut indices: Vec<usize> = indices.filter(|&index| index < times.len()).collect();
    indices.dedup();
    indices.iter().map(|&index| place(times[index], 100.0 * (index + 1) as f64 / all)).collect()
}

/// The same from the other end, in steps that multiply.
fn tail(point: &Point) -> Vec<Option<Mark>> {
    let all = point.sum(|run| run.connections as f64).max(1.0);
    let times = &point.times;
    let unconnected = (all - times.len() as f64).max(0.0);
    let steps = (0..STEPS).map(|step| {
        let left = (times.len() as f64).powf(1.0 - step as f64 / (STEPS - 1) as f64);
        times.len().saturating_sub(left.round() as usize)
    });
    let mut indices: Vec<usize> = steps.filter(|&index| index < times.len()).collect();
    indices.dedup();
    let longer = |index: usize| (times.len() - 1 - index) as f64 + unconnected;
    let seen = indices.iter().filter(|&&index| longer(index) > 0.0);
    seen.map(|&index| place(times[index], 100.0 * longer(index) / all)).collect()
}

fn timeline(point: &Point, moment: &Moment, from: u64) -> Vec<Option<Mark>> {
    let Some(end) = point.intervals.first().and_then(|rows| rows.last()) else { return Vec::new() };
    let rows = point.rows(from, end.start.as_millis() as u64);
    let rows = rows.iter().filter(|rows| rows.iter().any(|row| row.connections > 0));
    let mark = |rows: &Vec<&crate::result::IntervalRow>| {
        let start = rows.first()?.start.as_secs_f64();
        let y = (moment.of)(rows)?;
        Some(Mark { x: start, y, interval: None, bound: false })
    };
    rows.map(mark).collect()
}
