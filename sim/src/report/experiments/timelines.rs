//! Before, while and after something fails.

use super::{FAILING, NOT_SERVED, SECOND_ANSWERS, SLOWEST, TWICE, every, show};
use crate::report::experiment::{Chart, Curve, Effort, Experiment, Finding, Kind, Quantity, all};
use crate::report::outcome::Outcome;
use crate::result::IntervalRow;

const LONGEST: Quantity = Quantity {
    label: "connect time, longest, ms",
    of: |run| run.connect_us.map(|connect| connect.max / 1e3),
    rare: None,
};

type Rule = (&'static str, &'static [(&'static str, &'static str)]);

/// One host of three dies.
pub fn failover(effort: Effort) -> Experiment {
    let rules: [Rule; 7] = [
        ("clusterd", &[]),
        ("clusterd, claims not heard", &[("network.claim_loss", "100%")]),
        ("clusterd, by hash", &[("cluster.mode", "hash")]),
        ("rule of 2000", &[("cluster.rule", "original")]),
        ("split by address", &[("cluster.rule", "split")]),
        ("hash (CLUSTERIP)", &[("cluster.rule", "clusterip")]),
        ("Saru", &[("cluster.rule", "saru")]),
    ];
    let curve = |(name, settings): Rule| {
        let curve = Curve::new(name, settings).set("run.duration", "7s");
        let curve = curve.set("load.connections_per_second", effort.rate(1_000.0));
        let curve = curve.set("service.time", "exp 100ms").set("service.speeds", 1_000);
        curve.set("client.patience", "4s").fault("4s kill h1")
    };
    Experiment {
        id: "failover",
        title: "What does the death of a host cost?",
        about: "Of three hosts one loses power after 4 s. Connections take 100 ms to be served, so some are under way \
            at any time. Clients give up after 4 s. Connections are shown at the time at which they began.\n\n\
            clusterd is there three times: as it is; with all claims lost, so that each host believes that it \
            is alone; and deciding by hash all the time. Split and hash have their shares given by hand, and nobody \
            changes them when a host dies.",
        weak: "A connection that the dead host has is lost with all rules: its client hears nothing more. (The daemon can \
            reset such orphans after some seconds, so that clients need not wait; that part is not simulated.) The dead \
            host is gone at once; one that goes on half alive is worse. CLUSTERIP and Saru are usually run with a \
            monitor that reacts to failures, after seconds.",
        curves: rules.into_iter().map(curve).collect(),
        along: None,
        charts: vec![
            Chart {
                kind: Kind::Timeline(FAILING),
                only: all,
                logarithmic: false,
                caption: "Connections that were never served, by the time at which they began (100 ms each, all runs together).",
            },
            Chart {
                kind: Kind::Timeline(SLOWEST),
                only: all,
                logarithmic: true,
                caption: "The 99th percentile of the connect time in each 100 ms, of those connected; mean of the runs. Right after the death \
                    it shows what waiting for the dead host's turn costs.",
            },
            Chart {
                kind: Kind::Timeline(TWICE),
                only: all,
                logarithmic: false,
                caption: "Connections that several hosts have answered: only where no claims are heard are there many.",
            },
        ],
        tables: vec![NOT_SERVED, LONGEST, SECOND_ANSWERS],
        findings: failover_findings,
    }
}

/// Of the connections of a curve that began within these milliseconds, in percent.
fn part(
    outcome: &Outcome,
    name: &str,
    from: u64,
    to: u64,
    of: fn(&IntervalRow) -> u64,
) -> Option<f64> {
    let point = outcome.point(name, "")?;
    super::percent(point.within(from, to, of), point.within(from, to, |row| row.connections))
}

/// The greatest p99 of the connect time within these milliseconds, in milliseconds.
fn slowest(outcome: &Outcome, name: &str, from: u64, to: u64) -> Option<f64> {
    let rows = outcome.point(name, "")?.rows(from, to);
    rows.iter().filter_map(|rows| (SLOWEST.of)(rows)).reduce(f64::max)
}

fn failover_findings(outcome: &Outcome) -> Vec<Finding> {
    let failing = |name, from, to| part(outcome, name, from, to, |row| row.failures);
    let twice = |name, from, to| part(outcome, name, from, to, |row| row.answered_twice);
    let after = failing("clusterd", 4_100, 8_500);
    let wait = slowest(outcome, "clusterd", 4_000, 5_000);
    let fixed = ["split by address", "hash (CLUSTERIP)"].map(|name| failing(name, 5_000, 8_500));
    let saru = (failing("Saru", 4_000, 4_900), failing("Saru", 6_000, 8_500));
    let saru_wait = slowest(outcome, "Saru", 4_000, 5_000);
    let unheard = twice("clusterd, claims not heard", 3_000, 4_000);
    let heard = twice("clusterd", 3_000, 8_500);
    let unheard_fails = failing("clusterd, claims not heard", 4_100, 8_500);
    vec![
        Finding::new(
            "With clusterd no connection that begins more than 100 ms after the death fails.",
            after.map(|share| share == 0.0),
            format!(
                "{} %; of those begun in the 100 ms before, {} %.",
                show(after),
                show(failing("clusterd", 3_900, 4_000))
            ),
        ),
        Finding::new(
            "Its clients wait for the next in rank, not for the dead host: no 100 ms of the second after the death has a p99 above 100 ms.",
            wait.map(|wait| wait < 100.0),
            format!("At most {} ms.", show(wait)),
        ),
        Finding::new(
            "With a fixed split or hash about a third of all connections fails from then on.",
            every(fixed.map(|share| Some((25.0..42.0).contains(&share?)))),
            format!("Split {} %, hash {} %.", show(fixed[0]), show(fixed[1])),
        ),
        Finding::new(
            "Saru's clients wait until the elected host has noticed, more than 500 ms, and are served then: in the end none fails.",
            saru_wait.zip(saru.1).map(|(wait, end)| wait > 500.0 && end == 0.0),
            format!(
                "p99 up to {} ms; {} % fail later than 2 s after the death.",
                show(saru_wait),
                show(saru.1)
            ),
        ),
        Finding::new(
            "If no claims are heard, hosts of clusterd answer nearly all connections twice or more, before and after the death, and \
             none fails for that.",
            unheard.zip(unheard_fails).map(|(twice, fails)| twice > 90.0 && fails == 0.0),
            format!(
                "Answered by several: {} %, with claims heard {} %; failed: {} %.",
                show(unheard),
                show(heard),
                show(unheard_fails)
            ),
        ),
    ]
}

/// Two of four hosts are cut off from the others.
pub fn partition(effort: Effort) -> Experiment {
    let rules: [Rule; 7] = [
        ("clusterd, auto", &[]),
        ("clusterd, claims", &[("cluster.mode", "claim")]),
        ("clusterd, by hash", &[("cluster.mode", "hash")]),
        ("rule of 2000", &[("cluster.rule", "original")]),
        ("split by address", &[("cluster.rule", "split")]),
        ("hash (CLUSTERIP)", &[("cluster.rule", "clusterip")]),
        ("Saru", &[("cluster.rule", "saru")]),
    ];
    let curve = |(name, settings): Rule| {
        let curve = Curve::new(name, settings).set("run.duration", "9s");
        let curve = curve.set("load.connections_per_second", effort.rate(1_000.0));
        let curve = curve.set("cluster.hosts", 4).set("client.patience", "4s");
        curve.fault("4s part h1 h2").fault("8s heal")
    };
    Experiment {
        id: "partition",
        title: "What if the hosts do not hear each other?",
        about: "From 4 s to 8 s no claim passes between two of four hosts and the other two, while all hear the clients: each half \
            believes sooner or later that the other is dead. Connections are shown at the time at which they began.",
        weak: "Claims are cut and nothing else; a partition that cuts clients off, too, has no second answers. Hosts know \
            how many they were only from what they heard before. Datagrams (UDP), where nothing keeps a client from \
            getting two replies, are not simulated.",
        curves: rules.into_iter().map(curve).collect(),
        along: None,
        charts: vec![
            Chart {
                kind: Kind::Timeline(TWICE),
                only: all,
                logarithmic: false,
                caption: "Connections that several hosts have answered, by the time at which they began (100 ms each, all runs together).",
            },
            Chart {
                kind: Kind::Timeline(FAILING),
                only: all,
                logarithmic: false,
                caption: "Connections that were never served. With the guard the second answers of the figure above fail none.",
            },
            Chart {
                kind: Kind::Timeline(SLOWEST),
                only: all,
                logarithmic: true,
                caption: "The 99th percentile of the connect time in each 100 ms; mean of the runs. It rises where a half still waits for \
                    hosts that it does not hear.",
            },
        ],
        tables: vec![NOT_SERVED, LONGEST, SECOND_ANSWERS],
        findings: partition_findings,
    }
}

fn partition_findings(outcome: &Outcome) -> Vec<Finding> {
    let failing = |name, from, to| part(outcome, name, from, to, |row| row.failures);
    let twice = |name, from, to| part(outcome, name, from, to, |row| row.answered_twice);
    let cores = ["clusterd, auto", "clusterd, claims", "clusterd, by hash"];
    let failed = cores.map(|name| failing(name, 3_000, 11_000));
    let split = twice("clusterd, claims", 4_500, 8_000);
    let healed = cores.map(|name| twice(name, 9_000, 11_000));
    let saru = (twice("Saru", 6_000, 8_000), twice("Saru", 9_500, 11_000));
    vec![
        Finding::new(
            "Fewer than one connection to clusterd in 5000 fails, before, in and after the partition, however hosts decide. (Guard rst \
             errs in about one of 65 000 second answers, and there are many.)",
            every(failed.map(|share| Some(share? < 0.02))),
            format!("Auto, claims, by hash: {} %.", failed.map(show).join(", ")),
        ),
        Finding::new(
            "While claims do not pass, both halves answer: more than half of all connections have several answers if hosts must claim.",
            split.map(|share| share > 50.0),
            format!(
                "{} %; left to itself {} %.",
                show(split),
                show(twice("clusterd, auto", 4_500, 8_000))
            ),
        ),
        Finding::new(
            "One second after claims pass again, fewer than one connection in a hundred has several answers.",
            every(healed.map(|share| Some(share? < 1.0))),
            format!("Auto, claims, by hash: {} %.", healed.map(show).join(", ")),
        ),
        Finding::new(
            "Each half of Saru elects a host of its own that gives out all blocks, so connections have two answers as well, \
             until one of the two elected hosts gives way.",
            saru.0.zip(saru.1).map(|(split, healed)| split > 50.0 && healed < 1.0),
            format!(
                "{} % before the end of the partition, {} % later.",
                show(saru.0),
                show(saru.1)
            ),
        ),
    ]
}
