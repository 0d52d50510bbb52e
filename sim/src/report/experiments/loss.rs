//! Claims that get lost, and daemons that do not run.

use anyhow::Result;

use super::{CLAIMS, SECOND_ANSWERS, compare, second_answers, show};
use crate::report::experiment::{Along, Chart, Curve, Effort, Experiment, Finding, Kind, all};
use crate::report::outcome::Outcome;

/// Second answers against loss.
pub fn loss(effort: Effort) -> Result<Experiment> {
    const LOST: &str = "network.claim_loss=0.3%,1%,3%,10%,30%";
    const BURSTS: &str = "network.burst_loss=0.3%,1%,3%,10%,30%";
    let long = |curve: Curve| {
        curve.set("load.connections_per_second", 1_000).set("run.duration", effort.seconds(20.0))
    };
    let contest = |name: &str| {
        let curve = Curve::new(
            name,
            &[
                ("cluster.rule", "contest"),
                ("cluster.back_off", "rank"),
                ("cluster.window", "1ms"),
                ("cluster.settle", "500us"),
                ("run.warm_up", "0s"),
            ],
        );
        long(curve)
    };
    let core = |name: &str, mode: &str| long(Curve::new(name, &[("cluster.mode", mode)]));
    Ok(Experiment {
        id: "loss",
        title: "What if claims get lost?",
        about: "Three hosts claim in the order of ranks, 1 ms apart, and settle for 500 us. Said once, a claim that \
            gets lost makes the next host claim and answer, too. With re-assertion a host that hears a worse claim says \
            its own again, so two claims must get lost. With OWN who has answered says that as well, which \
            is one more message that must get lost.\n\n\
            Losses are independent of each other at each receiver, or come in bursts of ten frames \
            (Gilbert-Elliott), in which all frames are lost, SYNs, too. Last, clusterd as it is: when \
            it must claim, and left to itself, where hosts that hear badly decide by hash.",
        weak: "Except in bursts only claims are lost. Real bursts come from full queues and hit all receivers behind a port \
            at once; here each receiver has bursts of its own. A SYN that is lost with the claims about it \
            does no harm, which makes bursts look better than losses of claims only.",
        curves: vec![
            contest("said once").over(LOST)?,
            contest("re-assertion").set("cluster.reassert", true).over(LOST)?,
            contest("re-assertion and OWN")
                .set("cluster.reassert", true)
                .set("cluster.owns", true)
                .over(LOST)?,
            contest("both, losses in bursts")
                .set("cluster.reassert", true)
                .set("cluster.owns", true)
                .over(BURSTS)?,
            core("clusterd, claims", "claim").over(LOST)?,
            core("clusterd, claims, bursts", "claim").over(BURSTS)?,
            core("clusterd, auto", "auto").over(LOST)?,
            long(Curve::new("rule of 2000", &[("cluster.rule", "original")])).over(LOST)?,
            long(Curve::new("hash (CLUSTERIP)", &[("cluster.rule", "clusterip")])).over(LOST)?,
        ],
        along: Some(Along { label: "frames lost, %", scale: 100.0, logarithmic: true }),
        charts: vec![Chart {
            kind: Kind::Lines(SECOND_ANSWERS),
            only: all,
            logarithmic: true,
            caption: "Second answers against the share of claims (in bursts: of frames) that are lost. A line that \
                rises by one decade for each decade of losses has slope one: one loss suffices. A fixed hash needs no \
                claims, so it has none to lose, and no second answers; the rule of 2000 has so many from crossing claims that \
                losses hardly show.",
        }],
        tables: vec![SECOND_ANSWERS, CLAIMS],
        findings: loss_findings,
    })
}

/// Decades of second answers for each decade of losses.
fn slope(outcome: &Outcome, name: &str, from: &str, to: &str) -> Option<f64> {
    let at = |value| {
        let rate = outcome.mean(name, value, second_answers).filter(|&rate| rate > 0.0)?;
        Some((value.parse::<f64>().ok()?, rate))
    };
    let (from, to) = (at(from)?, at(to)?);
    Some((to.1 / from.1).log10() / (to.0 / from.0).log10())
}

fn loss_findings(outcome: &Outcome) -> Vec<Finding> {
    let slope = |name, from, to| slope(outcome, name, from, to);
    let near = |slope: Option<f64>, wanted: f64| Some((slope? - wanted).abs() < 0.35);
    let once = slope("said once", "0.003", "0.03");
    let twice = slope("re-assertion", "0.01", "0.1");
    let thrice = slope("re-assertion and OWN", "0.03", "0.3");
    let bursts = slope("both, losses in bursts", "0.003", "0.03");
    let at = |name, value| outcome.mean(name, value, second_answers);
    let (claims, auto) = (at("clusterd, claims", "0.3"), at("clusterd, auto", "0.3"));
    vec![
        Finding::new(
            "Said once, second answers are proportional to losses: slope one.",
            near(once, 1.0),
            format!("Slope from 0.3 % to 3 %: {}.", show(once)),
        ),
        Finding::new(
            "With re-assertion the slope is two.",
            near(twice, 2.0),
            format!("From 1 % to 10 %: {}.", show(twice)),
        ),
        Finding::new(
            "With OWN, too, it is steeper than two.",
            thrice.map(|slope| slope > 2.2),
            format!(
                "From 3 % to 30 %: {}. At 10 %, per 100 000: said once {}, re-assertion {}, and OWN {}.",
                show(thrice),
                show(at("said once", "0.1")),
                show(at("re-assertion", "0.1")),
                show(at("re-assertion and OWN", "0.1"))
            ),
        ),
        Finding::new(
            "Losses in bursts hit what is said again as well: the slope is about one again.",
            near(bursts, 1.0),
            format!("From 0.3 % to 3 %: {}.", show(bursts)),
        ),
        Finding::new(
            "Left to itself, clusterd has fewer second answers at 30 % loss than if it must claim, as hosts that hear \
             badly decide by hash.",
            compare(claims, auto, |claims, auto| auto < claims),
            format!("Per 100 000: must claim {}, left to itself {}.", show(claims), show(auto)),
        ),
    ]
}

/// Second answers against pauses of daemons.
pub fn pauses(effort: Effort) -> Result<Experiment> {
    const PAUSES: &str = "host.pause=1us,10us,100us,1ms,10ms,100ms,1s";
    let curve = |name: &str, drain: &str, settings: &[(&'static str, &str)]| {
        let curve = Curve::new(name, settings).set("cluster.drain", drain);
        let curve = curve.set("host.pauses_per_second", 0.5);
        let curve = curve.set("load.connections_per_second", 1_000);
        curve.set("run.duration", effort.seconds(20.0)).over(PAUSES)
    };
    let contest: &[(&'static str, &str)] = &[
        ("cluster.rule", "contest"),
        ("cluster.back_off", "rank"),
        ("cluster.window", "250us"),
        ("cluster.settle", "250us"),
    ];
    let core: &[(&'static str, &str)] = &[("cluster.mode", "claim")];
    Ok(Experiment {
        id: "pauses",
        title: "What if a daemon is kept from running?",
        about: "On three hosts the daemon stops every two seconds on average, for so long: it is out of processor time, \
            its machine is suspended, its memory is swapped out. What others say meanwhile waits in its socket. A \
            daemon that reads all of that before it decides (it drains) finds out that others have answered; \
            one that does not (an ablation) goes on where it stopped.",
        weak: "Pauses come between steps of a daemon, not within a system call, and hit hosts independently of each other. \
            A pause stops neither the kernel nor the service.",
        curves: vec![
            curve("clusterd, drains", "true", core)?,
            curve("clusterd, does not drain", "false", core)?,
            curve("ranks, D = 250 us, drains", "true", contest)?,
            curve("ranks, D = 250 us, does not", "false", contest)?,
            curve("rule of 2000", "true", &[("cluster.rule", "original")])?,
            curve("hash (CLUSTERIP)", "true", &[("cluster.rule", "clusterip")])?,
        ],
        along: Some(Along { label: "length of a pause, us", scale: 1.0, logarithmic: true }),
        charts: vec![
            Chart {
                kind: Kind::Lines(SECOND_ANSWERS),
                only: all,
                logarithmic: true,
                caption: "Second answers against the length of pauses. What drains and what does not part where a pause is \
                    longer than the time that a claim settles.",
            },
            Chart {
                kind: Kind::Lines(super::CONNECT_P99),
                only: all,
                logarithmic: true,
                caption: "What pauses cost the slowest connection of a hundred: a fixed hash has nobody to take over, so its clients \
                    wait for the end of the pause, or say their SYN again.",
            },
        ],
        tables: vec![SECOND_ANSWERS, super::CONNECT_P99, super::NOT_SERVED],
        findings: pauses_findings,
    })
}

fn pauses_findings(outcome: &Outcome) -> Vec<Finding> {
    let at = |name, pause| outcome.mean(name, pause, second_answers);
    let drained = at("clusterd, drains", "10ms");
    let not = at("clusterd, does not drain", "10ms");
    let ranks = ["ranks, D = 250 us, drains", "ranks, D = 250 us, does not"];
    let ranks = ranks.map(|name| at(name, "100ms"));
    let careless = at("ranks, D = 250 us, does not", "10ms");
    let short = ["1us", "10us", "100us"].map(|pause| at("clusterd, does not drain", pause));
    vec![
        Finding::new(
            "Who drains before it decides gives at most a third of the second answers of who does not, at pauses of 10 ms \
             and with clusterd.",
            compare(drained, not, |drained, not| not > 0.0 && drained <= not / 3.0),
            format!("Per 100 000: drains {}, does not {}.", show(drained), show(not)),
        ),
        Finding::new(
            "The same holds of ranks with D = 250 us, at pauses of 100 ms.",
            compare(ranks[0], ranks[1], |drains, not| not > 0.0 && drains <= not / 3.0),
            format!("Per 100 000: drains {}, does not {}.", show(ranks[0]), show(ranks[1])),
        ),
        Finding::new(
            "Even if it does not drain, clusterd answers less often than plain ranks after pauses of 10 ms.",
            compare(not, careless, |core, ranks| core < ranks),
            format!("Per 100 000: clusterd {}, ranks {}.", show(not), show(careless)),
        ),
        Finding::new(
            "Pauses much shorter than a slot do no harm even without draining: those of 10 us change nothing that \
             those of 1 us do not.",
            compare(short[0], short[1], |one, ten| ten <= one + 20.0),
            format!("Pauses of 1, 10, 100 us: {} per 100 000.", short.map(show).join(", ")),
        ),
    ]
}
