//! How long clients wait for their connection.

use super::{CONNECT_MEDIAN, CONNECT_P99, SECOND_ANSWERS, compare, every, show};
use crate::report::experiment::{Chart, Curve, Effort, Experiment, Finding, Kind, Quantity};
use crate::report::outcome::Outcome;
use crate::summary::Summary;

const BUSY_WAKE: &str = "lognormal 6us 0.7 + 2% exp 2ms";

const P999: Quantity = Quantity {
    label: "connect time, p99.9, us",
    of: |run| run.connect_us.map(|connect| connect.p999),
    rare: None,
};

/// Distributions of connect times, on idle and busy hosts.
pub fn latency(effort: Effort) -> Experiment {
    let rules: [(&str, &[(&'static str, &str)]); 9] = [
        ("clusterd, eager", &[("cluster.rule", "clusterd")]),
        ("clusterd, race", &[("cluster.pacing", "race")]),
        (
            "ranks, D = 60 us",
            &[
                ("cluster.rule", "contest"),
                ("cluster.back_off", "rank"),
                ("cluster.settle", "60us"),
            ],
        ),
        (
            "ranks, D = 250 us",
            &[
                ("cluster.rule", "contest"),
                ("cluster.back_off", "rank"),
                ("cluster.settle", "250us"),
            ],
        ),
        (
            "all at once, D = 250 us",
            &[
                ("cluster.rule", "contest"),
                ("cluster.back_off", "none"),
                ("cluster.settle", "250us"),
            ],
        ),
        ("rule of 2000", &[("cluster.rule", "original")]),
        ("split by address", &[("cluster.rule", "split")]),
        ("hash (CLUSTERIP)", &[("cluster.rule", "clusterip")]),
        ("Saru", &[("cluster.rule", "saru")]),
    ];
    let curve = |name: &str, settings: &[(&'static str, &str)]| {
        let curve = Curve::new(name, settings).set("cluster.hosts", 4);
        let curve = curve.set("run.duration", effort.seconds(10.0));
        curve.set("load.connections_per_second", 1_000)
    };
    let idle = rules.iter().map(|(name, settings)| curve(&format!("{name}; idle"), settings));
    let busy = rules.iter().map(|(name, settings)| {
        curve(&format!("{name}; busy"), settings).set("host.wake", BUSY_WAKE)
    });
    Experiment {
        id: "latency",
        title: "What does agreement cost a connection?",
        about: "The time from a client's first SYN to the first SYN-ACK that it gets, on four hosts. The way there and \
            back takes 200 us and is the same for all; the rest is what a rule costs. On idle hosts the daemon wakes \
            up within some microseconds (one time in a thousand later). On busy hosts, of 100 wake-ups \
            two come late, by 2 ms on average, as measured under load without real-time priority.",
        weak: "What delays daemons does not delay services or kernels here. The distances between hosts and \
            switch are equal, and all clients are equally far away.",
        curves: idle.chain(busy).collect(),
        along: None,
        charts: vec![
            Chart {
                kind: Kind::Distribution,
                only: |name| name.ends_with("; idle"),
                logarithmic: false,
                caption: "Idle hosts: the share of connections that are connected after so long. A settling time \
                    shows as a shift to the right.",
            },
            Chart {
                kind: Kind::Distribution,
                only: |name| name.ends_with("; busy"),
                logarithmic: false,
                caption: "The same on busy hosts.",
            },
            Chart {
                kind: Kind::Tail,
                only: |name| name.ends_with("; busy"),
                logarithmic: true,
                caption: "Busy hosts, the other end: the share of connections that take longer.",
            },
        ],
        tables: vec![CONNECT_MEDIAN, CONNECT_P99, P999, SECOND_ANSWERS],
        findings,
    }
}

fn median(run: &Summary) -> Option<f64> {
    run.connect_us.map(|connect| connect.p50)
}

fn p99(run: &Summary) -> Option<f64> {
    run.connect_us.map(|connect| connect.p99)
}

fn findings(outcome: &Outcome) -> Vec<Finding> {
    let at = |name: &str, of| outcome.mean(name, "", of);
    let eager = at("clusterd, eager; idle", median);
    let hash = at("hash (CLUSTERIP); idle", median);
    let steps = [60.0, 250.0].map(|settle| {
        let name = format!("ranks, D = {settle} us; idle");
        Some((settle, at(&name, median)? - eager?))
    });
    let busy = ["clusterd, eager; busy", "hash (CLUSTERIP); busy", "ranks, D = 250 us; busy"];
    let [eager_busy, hash_busy, ranks_busy] = busy.map(|name| at(name, p99));
    vec![
        Finding::new(
            "Eager claims cost the median connection less than 20 us more than a fixed hash.",
            compare(eager, hash, |eager, hash| eager - hash < 20.0),
            format!("Medians: clusterd {} us, hash {} us.", show(eager), show(hash)),
        ),
        Finding::new(
            "A settling time shows as a step: the median connection takes D longer, within 25 us.",
            every(steps.map(|step| step.map(|(settle, longer)| (longer - settle).abs() < 25.0))),
            format!(
                "D = 60 us: {} us longer than eager claims, D = 250 us: {} us.",
                show(steps[0].map(|step| step.1)),
                show(steps[1].map(|step| step.1))
            ),
        ),
        Finding::new(
            "On busy hosts others overtake a host that is late, so one connection in a hundred waits less \
             than with a fixed hash, which must wait for its host.",
            compare(eager_busy, hash_busy, |eager, hash| eager < hash),
            format!(
                "p99: clusterd {} us, ranks with D = 250 us {} us, hash {} us.",
                show(eager_busy),
                show(ranks_busy),
                show(hash_busy)
            ),
        ),
    ]
}
