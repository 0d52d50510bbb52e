//! What a run comes to: a few numbers with names and units.

use serde::Serialize;

use crate::client::Outcome;
use crate::record::Record;
use crate::scenario::Scenario;
use crate::world::{Connection, World};

/// The figures of one run. Only connections that began after the warm-up count.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it, with their units")]
pub struct Summary {
    pub connections: u64,
    pub served: u64,
    pub refused: u64,
    pub reset: u64,
    pub timed_out: u64,
    pub stalled: u64,
    pub open: u64,
    /// Connections that more than one host has answered.
    pub answered_twice: u64,
    /// SYN-ACKs of further hosts per 100 000 connections.
    pub second_syn_acks_per_100k: f64,
    /// Connections that more than one application has got.
    pub accepted_twice: u64,
    pub syns_per_connection: f64,
    pub claims_per_connection: f64,
    pub frames_per_connection: f64,
    pub bytes_per_connection: f64,
    pub connect_us: Quantiles,
    pub response_us: Quantiles,
    /// Of the connections that an application has got.
    pub share_of_host: Vec<f64>,
    pub collisions: u64,
    pub overflowed: u64,
    pub events: u64,
}

/// Of a distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Quantiles {
    /// Of these values in nanoseconds, in microseconds.
    pub fn of(mut nanoseconds: Vec<u64>) -> Self {
        nanoseconds.sort_unstable();
        let Some(&last) = nanoseconds.last() else { return Self::default() };
        let count = nanoseconds.len();
        // The least value that at least this share is not above.
        let at = |share: f64| {
            let rank = (share * count as f64).ceil() as usize;
            nanoseconds[rank.clamp(1, count) - 1] as f64 / 1e3
        };
        let sum: u64 = nanoseconds.iter().sum();
        Self {
            mean: sum as f64 / count as f64 / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: last as f64 / 1e3,
        }
    }
}

impl Summary {
    /// Sums up a run that is over.
    pub fn new<R: Record>(scenario: &Scenario, world: &World<'_, R>) -> Self {
        let counted: Vec<&Connection> = world.measured().collect();
        let count = |outcome| counted.iter().filter(|c| c.client.outcome == outcome).count() as u64;
        let connections = counted.len() as u64;
        let per_connection = |sum: u64| sum as f64 / connections.max(1) as f64;
        let further = |hosts: u64| u64::from(hosts.count_ones().saturating_sub(1));
        let second: u64 = counted.iter().map(|c| further(c.answered)).sum();
        let owned = counted.iter().filter(|c| c.owner().is_some()).count().max(1);
        let share = |host| {
            let its = counted.iter().filter(|c| c.owner() == Some(host)).count();
            its as f64 / owned as f64
        };
        let times = |end: fn(&Connection) -> Option<clusterd::protocol::Instant>| {
            let time =
                |c: &&Connection| end(c).map(|end| end.since(c.client.started).as_nanos() as u64);
            Quantiles::of(counted.iter().filter_map(time).collect())
        };
        let (counts, frames) = world.measured_counts();
        Self {
            connections,
            served: count(Outcome::Served),
            refused: count(Outcome::Refused),
            reset: count(Outcome::Reset),
            timed_out: count(Outcome::TimedOut),
            stalled: count(Outcome::Stalled),
            open: count(Outcome::Open),
            answered_twice: counted.iter().filter(|c| further(c.answered) > 0).count() as u64,
            second_syn_acks_per_100k: per_connection(second) * 1e5,
            accepted_twice: counted.iter().filter(|c| further(c.accepted) > 0).count() as u64,
            syns_per_connection: per_connection(
                counted.iter().map(|c| u64::from(c.client.syns)).sum(),
            ),
            claims_per_connection: per_connection(counts.claims + counts.owns + counts.releases),
            frames_per_connection: per_connection(frames.0),
            bytes_per_connection: per_connection(frames.1),
            connect_us: times(|c| c.client.connected),
            response_us: times(|c| c.client.ended.filter(|_| c.client.outcome == Outcome::Served)),
            share_of_host: (0..scenario.hosts).map(share).collect(),
            collisions: world.network().counters.collisions,
            overflowed: counts.overflowed + world.network().counters.overflowed,
            events: world.happened(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let quantiles = Quantiles::of((1..=1000).map(|value| value * 1000).collect());
        let Quantiles { mean, p50, p90, p99, p999, max } = quantiles;
        assert_eq!([mean, p50, p90, p99, p999, max], [500.5, 500.0, 900.0, 990.0, 999.0, 1000.0]);
        assert_eq!(Quantiles::of(vec![7000]).p999, 7.0);
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }
}
