//! The experiments of the report.

mod claims;
mod fate;
mod flood;
mod latency;
mod load;
mod loss;
mod media;
mod timelines;

use anyhow::Result;

use super::experiment::{Effort, Experiment, Moment, Quantity};
use super::ticks::digits;
use crate::result::IntervalRow;
use crate::summary::Summary;

/// All experiments, in the order of the page.
pub fn experiments(effort: Effort) -> Result<Vec<Experiment>> {
    Ok(vec![
        claims::settling(effort)?,
        claims::suppression(effort)?,
        latency::latency(effort),
        loss::loss(effort)?,
        fate::fate(effort),
        load::load(effort)?,
        timelines::failover(effort),
        loss::pauses(effort)?,
        flood::flood(effort)?,
        timelines::partition(effort),
        media::media(effort)?,
    ])
}

const SECOND_ANSWERS: Quantity = Quantity {
    label: "second SYN-ACKs per 100 000 connections",
    of: second_answers,
    rare: Some(1e5),
};

const CLAIMS: Quantity = Quantity {
    label: "claims sent per connection",
    of: |run| Some(run.claims_per_connection),
    rare: None,
};

const CONNECT_MEDIAN: Quantity = Quantity {
    label: "connect time, median, us",
    of: |run| run.connect_us.map(|connect| connect.p50),
    rare: None,
};

const CONNECT_P99: Quantity = Quantity {
    label: "connect time, p99, us",
    of: |run| run.connect_us.map(|connect| connect.p99),
    rare: None,
};

const NOT_SERVED: Quantity = Quantity {
    label: "connections not served, %",
    of: |run| percent(failures(run), run.connections),
    rare: Some(100.0),
};

const BUSY: Quantity = Quantity {
    label: "daemons busy, % of the time",
    of: |run| Some(run.daemon_busy_share * 100.0),
    rare: None,
};

const FAILING: Moment = Moment {
    label: "of connections begun then, not served, %",
    of: |rows| share(rows, |row| row.failures),
};

const TWICE: Moment = Moment {
    label: "of connections begun then, answered by several, %",
    of: |rows| share(rows, |row| row.answered_twice),
};

const SLOWEST: Moment = Moment {
    label: "connect time, p99 of 100 ms, ms",
    of: |rows| {
        let times = rows.iter().filter_map(|row| row.connect.map(|connect| connect.p99));
        mean(times).map(|time| time / 1e3)
    },
};

fn second_answers(run: &Summary) -> Option<f64> {
    (run.connections > 0).then_some(run.second_syn_acks_per_100k)
}

fn failures(run: &Summary) -> u64 {
    run.refused + run.reset + run.timed_out + run.stalled
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

/// Of the connections of some rows, in percent.
fn share(rows: &[&IntervalRow], of: fn(&IntervalRow) -> u64) -> Option<f64> {
    let sum = |of: fn(&IntervalRow) -> u64| rows.iter().map(|row| of(row)).sum();
    percent(sum(of), sum(|row| row.connections))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A number for evidence: three digits.
fn show(value: Option<f64>) -> String {
    value.map_or_else(|| "not measured".to_owned(), |value| digits(value, 3))
}

/// Whether something holds of two numbers, if both were measured.
fn compare(a: Option<f64>, b: Option<f64>, holds: fn(f64, f64) -> bool) -> Option<bool> {
    Some(holds(a?, b?))
}

/// Whether something holds of all; not known if there are none, or one is not known.
fn every(values: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut values = values.into_iter().peekable();
    values.peek()?;
    values.try_fold(true, |all, value| Some(all && value?))
}

#[cfg(test)]
mod tests;
