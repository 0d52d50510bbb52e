//! How long clients wait for their connection.

use super::{CONNECT_MEDIAN, CONNECT_P99, SECOND_ANSWERS, compare, every, show};
use crate::report::experiment::{Chart, Curve, Effort, Experiment, Finding, Kind, Quantity};
use crate::report::outcome::Outcome;
use crate::summary::Summary;

const BUSY_WAKE: &str = "lognormal 6us 0.7 + 2% exp 2ms";

/// S and D do not adapt.
const HELD: &[(&str, &str)] = &[
    ("cluster.slot", "250us"),
    ("cluster.slot_adapts", "false"),
    ("cluster.settle", "250us"),
    ("cluster.settle_adapts", "false"),
];

const P999: Quantity = Quantity {
    label: "connect time, p99.9, us",
    of: |run| run.connect_us.map(|connect| connect.p999),
    rare: None,
};

/// Distributions of connect times, on idle and busy hosts.
pub fn latency(effort: Effort) -> Experiment {
    let rules: [(&str, &[(&'static str, &str)]); 10] = [
        ("clusterd, eager", &[("cluster.rule", "clusterd")]),
        ("clusterd, S = D = 250 us", HELD),
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
            two come late, by 2 ms on average, as measured under load without real-time priority.\n\n\
            clusterd is there three times: as it is, where the first in rank answers at once, and S and D (for claims that \
            are doubtful) follow the delays that hosts observe; with S and D held at 250 us; and when all hosts race.",
        weak: "What delays daemons does not delay services or kernels here. The distances between hosts and \
            switch are equal, and all clients are equally far away.\n\n\
            All rules decide in a daemon here, also those that a kernel would: in reality CLUSTERIP, a split by rules of the packet \
            filter, and what Saru sets up wait for no daemon, and none of the lateness of wake-ups is theirs.",
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
    let busy =
        ["clusterd, eager; busy", "clusterd, S = D = 250 us; busy", "hash (CLUSTERIP); busy"];
    let [eager_busy, held_busy, hash_busy] = busy.map(|name| at(name, p99));
    let second = at("clusterd, S = D = 250 us; busy", super::second_answers);
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
            "On busy hosts with S and D held at 250 us others overtake a host that is late, so the p99 is less than half of that \
             of a hash that a daemon must carry out.",
            compare(held_busy, hash_busy, |held, hash| held < hash / 2.0),
            format!(
                "p99: {} us, hash {} us; second answers per 100 000: {}.",
                show(held_busy),
                show(hash_busy),
                show(second)
            ),
        ),
        Finding::new(
            "S and D that adapt give that away: they follow the late wake-ups, and the p99 is more than twice as long as with \
             both held.",
            compare(eager_busy, held_busy, |eager, held| eager > 2.0 * held),
            format!("p99: {} us, held {} us.", show(eager_busy), show(held_busy)),
        ),
    ]
}
