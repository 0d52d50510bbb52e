//! What a run has come to: its figures, and tidy rows about connections, hosts and time.

use std::time::Duration;

use crate::client::Outcome;
use crate::counts::Counts;
use crate::record::{Nothing, Record};
use crate::scenario::Scenario;
use crate::summary::{Quantiles, Summary};
use crate::world::{Connection, World};

/// What a row of the time series is about.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunResult {
    /// The seed.
    pub seed: u64,
    /// The figures.
    pub summary: Summary,
}

/// The rows of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Of each connection after the warm-up.
    pub connections: Vec<ConnectionRow>,
    /// Of each host.
    pub hosts: Vec<HostRow>,
    /// Of each [`INTERVAL`] from the start of the warm-up on.
    pub intervals: Vec<IntervalRow>,
}

/// A kind of row: its cells in the order of its columns.
pub trait Row {
    /// The names of the columns, with their units.
    const COLUMNS: &'static [&'static str];

    /// One cell for each column; nothing where nothing was measured.
    fn cells(&self) -> Vec<String>;
}

/// How one connection went.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionRow {
    number: usize,
    started: u64,
    /// From the first SYN to the first SYN-ACK, in nanoseconds.
    pub connect: Option<u64>,
    response: Option<u64>,
    syns: u32,
    answered_by: u32,
    owner: Option<usize>,
    outcome: Outcome,
}

/// What one host did after the warm-up.
#[derive(Clone, Debug, PartialEq)]
pub struct HostRow {
    host: usize,
    connections: u64,
    share: f64,
    counts: Counts,
}

/// What went on in one interval.
#[derive(Clone, Debug, PartialEq)]
pub struct IntervalRow {
    /// When it begins, from the start of the run.
    pub start: Duration,
    /// Connections that began in it.
    pub connections: u64,
    /// How many of these were refused, reset, timed out or stalled.
    pub failures: u64,
    /// How many of these more than one host has answered.
    pub answered_twice: u64,
    /// Their connect times.
    pub connect: Option<Quantiles>,
    /// Entries of claims sent in it.
    pub claims: u64,
}

impl RunResult {
    /// Runs a scenario.
    pub fn of(scenario: &Scenario, seed: u64) -> Self {
        let mut world = World::new(scenario, seed, Nothing);
        world.run();
        Self { seed, summary: Summary::new(scenario, &world) }
    }

    /// Runs a scenario and keeps everything.
    pub fn with_details<R: Record>(
        scenario: &Scenario,
        seed: u64,
        record: R,
    ) -> (Self, Details, R) {
        let mut world = World::new(scenario, seed, record);
        let mut claims = Vec::new();
        world.run_in_steps(INTERVAL, |world| {
            let Counts { claims: claimed, owns, releases, .. } = world.counts();
            claims.push(claimed + owns + releases);
        });
        let summary = Summary::new(scenario, &world);
        let details = Details {
            connections: connections(&world),
            hosts: hosts(&world, &summary),
            intervals: intervals(&world, &claims),
        };
        (Self { seed, summary }, details, world.record)
    }
}

fn connections<R: Record>(world: &World<'_, R>) -> Vec<ConnectionRow> {
    // Whoever began after the warm-up comes last.
    let first = world.connections.len() - world.measured().count();
    let rows = (first..).zip(world.measured()).map(|(number, connection)| ConnectionRow {
        number,
        started: connection.client.started.0,
        connect: connection.connect_time(),
        response: connection.response_time(),
        syns: connection.client.syns,
        answered_by: connection.answered.count_ones(),
        owner: connection.owner(),
        outcome: connection.client.outcome,
    });
    rows.collect()
}

fn hosts<R: Record>(world: &World<'_, R>, summary: &Summary) -> Vec<HostRow> {
    let mut owned = vec![0; summary.share_of_host.len()];
    world.measured().filter_map(Connection::owner).for_each(|host| owned[host] += 1);
    let counts = world.measured_counts().hosts;
    let hosts = owned.into_iter().zip(&summary.share_of_host).zip(counts).enumerate();
    let row =
        |(host, ((connections, &share), counts))| HostRow { host, connections, share, counts };
    hosts.map(row).collect()
}

/// Intervals, given the claims counted until the end of each.
fn intervals<R: Record>(world: &World<'_, R>, claims: &[u64]) -> Vec<IntervalRow> {
    let mut connections = world.connections.iter().peekable();
    let mut before = 0;
    let row = |(number, &claimed): (u32, &u64)| {
        let start = INTERVAL * number;
        let end = (start + INTERVAL).as_nanos() as u64;
        let mut its = Vec::new();
        while let Some(next) = connections.next_if(|next| next.client.started.0 < end) {
            its.push(next);
        }
        let claims = claimed - std::mem::replace(&mut before, claimed);
        IntervalRow {
            start,
            connections: its.len() as u64,
            failures: its.iter().filter(|it| it.client.outcome.is_failure()).count() as u64,
            answered_twice: its.iter().filter(|it| it.answered.count_ones() > 1).count() as u64,
            connect: Quantiles::of(its.iter().filter_map(|it| it.connect_time()).collect()),
            claims,
        }
    };
    (0..).zip(claims).map(row).collect()
}

impl Row for ConnectionRow {
    const COLUMNS: &'static [&'static str] = &[
        "number",
        "started_us",
        "connect_us",
        "response_us",
        "syns",
        "answered_by",
        "owner",
        "outcome",
    ];

    fn cells(&self) -> Vec<String> {
        let time = |time: Option<u64>| cell(time.map(microseconds));
        vec![
            self.number.to_string(),
            time(Some(self.started)),
            time(self.connect),
            time(self.response),
            self.syns.to_string(),
            self.answered_by.to_string(),
            self.owner.map(host_name).unwrap_or_default(),
            outcome_name(self.outcome).to_owned(),
        ]
    }
}

impl Row for HostRow {
    const COLUMNS: &'static [&'static str] = &[
        "host",
        "connections",
        "share",
        "syns",
        "accepted",
        "eager",
        "claims",
        "owns",
        "releases",
        "takeovers",
        "overflowed",
        "cookies",
        "leftovers",
    ];

    fn cells(&self) -> Vec<String> {
        let Counts {
            claims,
            owns,
            releases,
            syns,
            accepted,
            eager,
            takeovers,
            overflowed,
            busy: _,
            cookies,
            leftovers,
        } = self.counts;
        let mut cells =
            vec![host_name(self.host), self.connections.to_string(), self.share.to_string()];
        let decided = [syns, accepted, eager, claims, owns, releases, takeovers];
        let counts = decided.into_iter().chain([overflowed, cookies, leftovers]);
        cells.extend(counts.map(|count| count.to_string()));
        cells
    }
}

impl Row for IntervalRow {
    const COLUMNS: &'static [&'static str] = &[
        "time_ms",
        "connections",
        "failures",
        "answered_twice",
        "connect_p50_us",
        "connect_p99_us",
        "claims",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.start.as_millis().to_string(),
            self.connections.to_string(),
            self.failures.to_string(),
            self.answered_twice.to_string(),
            cell(self.connect.map(|connect| connect.p50)),
            cell(self.connect.map(|connect| connect.p99)),
            self.claims.to_string(),
        ]
    }
}

/// A number as tables for machines have it; nothing for none.
pub fn cell(number: Option<f64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// Nanoseconds in microseconds.
pub fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// A host as faults and tables name it: `h1` is the first.
pub fn host_name(host: usize) -> String {
    format!("h{}", host + 1)
}

/// An outcome as tables name it.
pub fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Open => "open",
        Outcome::Served => "served",
        Outcome::Refused => "refused",
        Outcome::Reset => "reset",
        Outcome::TimedOut => "timed_out",
        Outcome::Stalled => "stalled",
        Outcome::Rebooted => "rebooted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        let mut scenario = Scenario::default();
        for (key, value) in [
            ("run.duration", "450ms"),
            ("run.warm_up", "1500ms"),
            ("load.connections_per_second", "400"),
        ] {
            scenario.set(key, value).unwrap();
        }
        scenario.faults.push("1700ms kill h1".parse().unwrap());
        scenario
    }

    #[test]
    fn looking_at_a_run_does_not_change_it() {
        let scenario = scenario();
        let (result, details, Nothing) = RunResult::with_details(&scenario, 5, Nothing);
        assert_eq!(result, RunResult::of(&scenario, 5));
        let summary = &result.summary;
        assert!(summary.connections > 100);
        assert_eq!(details.connections.len() as u64, summary.connections);
        let owned: u64 = details.hosts.iter().map(|host| host.connections).sum();
        let owners = details.connections.iter().filter(|connection| connection.owner.is_some());
        assert_eq!(owned, owners.count() as u64);
        assert!(owned >= summary.served);
    }

    #[test]
    fn intervals_add_up() {
        let scenario = scenario();
        let (result, details, Nothing) = RunResult::with_details(&scenario, 5, Nothing);
        // Warm-up, load, cool-down of 5 s; the last one is cut off.
        assert_eq!(details.intervals.len(), 70);
        let warm = details.intervals.iter().filter(|it| it.start >= scenario.warm_up);
        let (mut connections, mut claims) = (0, 0);
        for interval in warm {
            connections += interval.connections;
            claims += interval.claims;
        }
        let summary = result.summary;
        assert_eq!(connections, summary.connections);
        assert_eq!(claims as f64 / connections as f64, summary.claims_per_connection);
    }

    #[test]
    fn rows_have_a_cell_for_each_column() {
        fn check<R: Row>(rows: &[R]) {
            assert!(!rows.is_empty());
            assert!(rows.iter().all(|row| row.cells().len() == R::COLUMNS.len()));
        }
        let (_, details, Nothing) = RunResult::with_details(&scenario(), 5, Nothing);
        check(&details.connections);
        check(&details.hosts);
        check(&details.intervals);
    }
}
