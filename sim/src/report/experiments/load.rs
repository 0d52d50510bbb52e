//! How well work is spread.

use anyhow::Result;

use super::{compare, every, show};
use crate::report::experiment::{
    Along, Chart, Curve, Effort, Experiment, Finding, Kind, Quantity, all,
};
use crate::report::outcome::Outcome;
use crate::summary::Summary;

const MEAN: Quantity = Quantity { label: "response time, mean, ms", of: mean, rare: None };
const P99: Quantity = Quantity {
    label: "response time, p99, ms",
    of: |run| run.response_us.map(|response| response.p99 / 1e3),
    rare: None,
};
const SHARE: Quantity = Quantity {
    label: "greatest share of a host, %",
    of: |run| run.share_of_host.iter().copied().reduce(f64::max).map(|share| share * 100.0),
    rare: None,
};

fn mean(run: &Summary) -> Option<f64> {
    run.response_us.map(|response| response.mean / 1e3)
}

/// Response time against load.
pub fn load(effort: Effort) -> Result<Experiment> {
    // Four hosts that serve 100 connections a second each: 30 to 90 % of that.
    const RATES: &str = "load.connections_per_second=120,200,280,320,360";
    let rules = [
        ("at random", "random", "rank"),
        ("less busy of two", "power-of-two", "rank"),
        ("least busy (JSQ)", "shortest-queue", "rank"),
        ("clusterd, ranks", "clusterd", "rank"),
        ("clusterd, race", "clusterd", "race"),
        ("rule of 2000", "original", "rank"),
        ("split by address", "split", "rank"),
        ("hash (CLUSTERIP)", "clusterip", "rank"),
        ("Saru", "saru", "rank"),
    ];
    let curve = |(name, rule, pacing): (&str, &str, &str)| {
        let curve = Curve::new(
            name,
            &[
                ("cluster.hosts", "4"),
                ("service.speeds", "1"),
                ("service.time", "exp 10ms"),
                ("run.warm_up", "5s"),
            ],
        );
        let curve = curve.set("cluster.rule", rule).set("cluster.pacing", pacing);
        curve.set("run.duration", effort.seconds(40.0)).over(RATES)
    };
    Ok(Experiment {
        id: "load",
        title: "How well is work spread?",
        about: "Four hosts with one processor each; a connection is 10 ms of work on average (exponential), and \
            connections share the processor of their host. The first three curves are what a balancer in front would \
            do that knows everything without delay: draw a host, take the less busy of two that it draws, or \
            the least busy of all (JSQ, the best that can be done without knowing the future). Then clusterd in the order of ranks \
            and when all hosts race, and its ancestors.",
        weak: "What a service does slows down its own connections only, not the daemon of its host; if it did, a race would \
            favour idle hosts. All hosts are alike: in reality one that is a few microseconds nearer wins most \
            races. Ranks of clusterd are a hash of connection and host; ranking by load is not part of the protocol, \
            so the expectation of the protocol note that ranked claims come near JSQ is not tested by this figure.\n\n\
            The modelled clients take turns by their addresses, so the split by address gives each host every fourth connection, \
            which is better than chance; of real clients a few addresses may bring much of the load, which is worse.",
        curves: rules.into_iter().map(curve).collect::<Result<_>>()?,
        along: Some(Along { label: "load, % of capacity", scale: 0.25, logarithmic: false }),
        charts: vec![
            Chart {
                kind: Kind::Lines(MEAN),
                only: all,
                logarithmic: true,
                caption: "Mean time until a client has its answer.",
            },
            Chart {
                kind: Kind::Lines(P99),
                only: all,
                logarithmic: true,
                caption: "The time that one answer in a hundred takes longer than.",
            },
        ],
        tables: vec![MEAN, P99, SHARE],
        findings,
    })
}

fn findings(outcome: &Outcome) -> Vec<Finding> {
    let at = |name, rate| outcome.mean(name, rate, mean);
    let (random, jsq) = (at("at random", "280"), at("least busy (JSQ)", "280"));
    // M/G/1 with processor sharing: mean work / (1 - load); and 0.2 ms on the way.
    let theory = 10.0 / (1.0 - 0.7) + 0.2;
    let two = at("less busy of two", "280");
    let hash = at("hash (CLUSTERIP)", "280");
    let core = [at("clusterd, ranks", "280"), at("clusterd, race", "280")];
    let similar = |a: Option<f64>, b: Option<f64>| compare(a, b, |a, b| (a / b - 1.0).abs() < 0.2);
    vec![
        Finding::new(
            "Hosts that get connections at random respond as queueing theory says, at 70 % load within 15 %: 10 ms / (1 - 0.7). \
             This checks the model of load and services.",
            random.map(|random| (random / theory - 1.0).abs() < 0.15),
            format!("{} ms, by theory {} ms.", show(random), show(Some(theory))),
        ),
        Finding::new(
            "To know who is least busy is worth most, to know it of two hosts is worth nearly as much.",
            every([
                compare(jsq, two, |jsq, two| jsq <= two * 1.02),
                compare(two, random, |two, random| two < random),
            ]),
            format!(
                "At 70 % load: {}, {} and {} ms at random.",
                show(jsq),
                show(two),
                show(random)
            ),
        ),
        Finding::new(
            "clusterd spreads work as a hash does, no better: by ranks and in a race its mean response time at 70 % load \
             is within 20 % of that of a random choice.",
            every(core.map(|core| similar(core, random))),
            format!(
                "Ranks {}, race {}, hash {} ms; JSQ {} ms.",
                show(core[0]),
                show(core[1]),
                show(hash),
                show(jsq)
            ),
        ),
    ]
}
