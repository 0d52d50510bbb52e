//! What a run comes to: a few numbers with names and units.

use serde::Serialize;

use crate::client::Outcome;
use crate::counts::{Counted, Counts};
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
    pub rebooted: u64,
    pub open: u64,
    /// Connections that more than one host has answered.
    pub answered_twice: u64,
    /// Of these: served, reset, and without an answer.
    pub twice_served: u64,
    pub twice_reset: u64,
    pub twice_stalled: u64,
    /// SYN-ACKs of further hosts per 100 000 connections.
    pub second_syn_acks_per_100k: f64,
    /// Connections that more than one application has got.
    pub accepted_twice: u64,
    pub syns_per_connection: f64,
    pub claims_per_connection: f64,
    pub frames_per_connection: f64,
    pub bytes_per_connection: f64,
    /// From the first SYN to the first SYN-ACK, if there was any.
    pub connect_us: Option<Quantiles>,
    /// From the first SYN to the end of the answer, if there was any.
    pub response_us: Option<Quantiles>,
    /// Of the connections that an application has got.
    pub share_of_host: Vec<f64>,
    /// Part of the load's time in which a daemon had something to do, mean of the hosts.
    pub daemon_busy_share: f64,
    pub collisions: u64,
    pub overflowed: u64,
    /// SYN-ACKs that were SYN cookies.
    pub cookies: u64,
    /// SYNs dropped because something of an earlier attempt was left.
    pub leftovers: u64,
    pub events: u64,
}

/// One number of a summary.
pub struct Figure {
    /// Its name in tables, with its unit.
    pub name: &'static str,
    /// It; `None` where there was nothing to measure.
    pub of: fn(&Summary) -> Option<f64>,
}

macro_rules! figures {
    ($($name:literal: $of:expr;)*) => {
        /// All figures, in the order of the tables.
        pub const FIGURES: &[Figure] = &[$(Figure { name: $name, of: $of }),*];
    };
}

figures! {
    "connections": |it| Some(it.connections as f64);
    "served": |it| Some(it.served as f64);
    "refused": |it| Some(it.refused as f64);
    "reset": |it| Some(it.reset as f64);
    "timed_out": |it| Some(it.timed_out as f64);
    "stalled": |it| Some(it.stalled as f64);
    "rebooted": |it| Some(it.rebooted as f64);
    "open": |it| Some(it.open as f64);
    "answered_twice": |it| Some(it.answered_twice as f64);
    "twice_served": |it| Some(it.twice_served as f64);
    "twice_reset": |it| Some(it.twice_reset as f64);
    "twice_stalled": |it| Some(it.twice_stalled as f64);
    "second_syn_acks_per_100k": |it| Some(it.second_syn_acks_per_100k);
    "accepted_twice": |it| Some(it.accepted_twice as f64);
    "syns_per_connection": |it| Some(it.syns_per_connection);
    "claims_per_connection": |it| Some(it.claims_per_connection);
    "frames_per_connection": |it| Some(it.frames_per_connection);
    "bytes_per_connection": |it| Some(it.bytes_per_connection);
    "connect_mean_us": |it| it.connect_us.map(|connect| connect.mean);
    "connect_p50_us": |it| it.connect_us.map(|connect| connect.p50);
    "connect_p90_us": |it| it.connect_us.map(|connect| connect.p90);
    "connect_p99_us": |it| it.connect_us.map(|connect| connect.p99);
    "connect_p999_us": |it| it.connect_us.map(|connect| connect.p999);
    "connect_max_us": |it| it.connect_us.map(|connect| connect.max);
    "response_mean_us": |it| it.response_us.map(|response| response.mean);
    "response_p50_us": |it| it.response_us.map(|response| response.p50);
    "response_p90_us": |it| it.response_us.map(|response| response.p90);
    "response_p99_us": |it| it.response_us.map(|response| response.p99);
    "response_p999_us": |it| it.response_us.map(|response| response.p999);
    "response_max_us": |it| it.response_us.map(|response| response.max);
    "greatest_share": |it| it.share_of_host.iter().copied().reduce(f64::max);
    "least_share": |it| it.share_of_host.iter().copied().reduce(f64::min);
    "daemon_busy_share": |it| Some(it.daemon_busy_share);
    "collisions": |it| Some(it.collisions as f64);
    "overflowed": |it| Some(it.overflowed as f64);
    "cookies": |it| Some(it.cookies as f64);
    "leftovers": |it| Some(it.leftovers as f64);
    "events": |it| Some(it.events as f64);
}

/// Of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
    /// Of these values in nanoseconds, in microseconds; of no values there are none.
    pub fn of(mut nanoseconds: Vec<u64>) -> Option<Self> {
        nanoseconds.sort_unstable();
        let &last = nanoseconds.last()?;
        let count = nanoseconds.len();
        // The least value that at least this share is not above.
        let at = |share: f64| {
            let rank = (share * count as f64).ceil() as usize;
            nanoseconds[rank.clamp(1, count) - 1] as f64 / 1e3
        };
        let sum: u64 = nanoseconds.iter().sum();
        Some(Self {
            mean: sum as f64 / count as f64 / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: last as f64 / 1e3,
        })
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
        let twice = |outcome| {
            let its = |c: &&&Connection| further(c.answered) > 0 && c.client.outcome == outcome;
            counted.iter().filter(its).count() as u64
        };
        let second: u64 = counted.iter().map(|c| further(c.answered)).sum();
        let owned = counted.iter().filter(|c| c.owner().is_some()).count().max(1);
        let share = |host| {
            let its = counted.iter().filter(|c| c.owner() == Some(host)).count();
            its as f64 / owned as f64
        };
        let times = |time: fn(&Connection) -> Option<u64>| {
            Quantiles::of(counted.iter().filter_map(|c| time(c)).collect())
        };
        let Counted { hosts, claim_frames: frames, network } = world.measured_counts();
        let counts: Counts = hosts.into_iter().sum();
        Self {
            connections,
            served: count(Outcome::Served),
            refused: count(Outcome::Refused),
            reset: count(Outcome::Reset),
            timed_out: count(Outcome::TimedOut),
            stalled: count(Outcome::Stalled),
            rebooted: count(Outcome::Rebooted),
            open: count(Outcome::Open),
            answered_twice: counted.iter().filter(|c| further(c.answered) > 0).count() as u64,
            twice_served: twice(Outcome::Served),
            twice_reset: twice(Outcome::Reset),
            twice_stalled: twice(Outcome::Stalled),
            second_syn_acks_per_100k: per_connection(second) * 1e5,
            accepted_twice: counted.iter().filter(|c| further(c.accepted) > 0).count() as u64,
            syns_per_connection: per_connection(
                counted.iter().map(|c| u64::from(c.client.syns)).sum(),
            ),
            claims_per_connection: per_connection(counts.claims + counts.owns + counts.releases),
            frames_per_connection: per_connection(frames.0),
            bytes_per_connection: per_connection(frames.1),
            connect_us: times(Connection::connect_time),
            response_us: times(Connection::response_time),
            share_of_host: (0..scenario.hosts).map(share).collect(),
            daemon_busy_share: world.busy_share(),
            collisions: network.collisions,
            overflowed: counts.overflowed + network.overflowed,
            cookies: counts.cookies,
            leftovers: counts.leftovers,
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
        let Quantiles { mean, p50, p90, p99, p999, max } = quantiles.unwrap();
        assert_eq!([mean, p50, p90, p99, p999, max], [500.5, 500.0, 900.0, 990.0, 999.0, 1000.0]);
        assert_eq!(Quantiles::of(vec![7000]).unwrap().p999, 7.0);
        assert_eq!(Quantiles::of(Vec::new()), None);
    }
}
