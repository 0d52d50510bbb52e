//! Claims: how long they settle, how many there are.

use anyhow::Result;

use super::{
    CLAIMS, CONNECT_MEDIAN, CONNECT_P99, SECOND_ANSWERS, compare, every, second_answers, show,
};
use crate::report::experiment::{Along, Chart, Curve, Effort, Experiment, Finding, Kind, all};
use crate::report::outcome::Outcome;
use crate::summary::Summary;

/// Hosts, and seconds of 500 connections each: with many hosts every connection is much work.
const SETTLING: [(&str, f64); 6] =
    [("2", 40.0), ("4", 32.0), ("8", 16.0), ("16", 6.0), ("32", 2.4), ("64", 1.0)];
const SETTLE_TIMES: &str = "cluster.settle=0s,30us,60us,120us,250us,500us,1ms";

/// Second answers against D and N.
pub fn settling(effort: Effort) -> Result<Experiment> {
    let mut curves = Vec::new();
    for (hosts, seconds) in SETTLING {
        let curve = Curve::new(
            format!("{hosts} hosts"),
            &[
                ("cluster.rule", "contest"),
                ("cluster.back_off", "none"),
                ("run.warm_up", "0s"),
                ("load.connections_per_second", "500"),
            ],
        );
        let curve = curve.set("cluster.hosts", hosts).set("run.duration", effort.seconds(seconds));
        curves.push(curve.over(SETTLE_TIMES)?);
    }
    Ok(Experiment {
        id: "settling",
        title: "How long must a claim settle?",
        about: "Every host claims as soon as it sees a SYN, waits D, and answers unless it has heard a better \
            claim (better: by a hash of connection and host, alike on all). With D = 0 this is \
            the naive rule: who has heard nothing answers.\n\n\
            On a switch nobody hears its own claim come back, so there is no common order in which \
            claims arrive, and only time tells a host that it has won. If D is longer than a claim \
            needs to all others and theirs back, one host answers. So the curves show the tails of that \
            round trip.",
        weak: "The tails are those of the modelled interrupts, wake-ups, timers and switch, not those of a \
            machine of yours. In particular, the slow 1 % of frames (exponential, 60 us) and 0.1 % of wake-ups \
            (300 us) make the slope beyond 60 us. Claims are ordered by hash; an order by the time \
            since the SYN, which could do with a shorter D, is not simulated.\n\n\
            Frames do not overtake each other at a host, so one late interrupt delays all claims. An earlier estimate \
            (protocol note, 3.3) drew each delay independently of the others and found that the number of hosts hardly \
            matters; that was too good.",
        curves,
        along: Some(Along { label: "settling time D, us", scale: 1.0, logarithmic: false }),
        charts: vec![Chart {
            kind: Kind::Lines(SECOND_ANSWERS),
            only: all,
            logarithmic: true,
            caption: "Second answers against the settling time, for 2 to 64 hosts.",
        }],
        tables: vec![SECOND_ANSWERS],
        findings: settling_findings,
    })
}

fn twice(run: &Summary) -> Option<f64> {
    super::percent(run.answered_twice, run.connections)
}

fn settling_findings(outcome: &Outcome) -> Vec<Finding> {
    let names = SETTLING.map(|(hosts, _)| format!("{hosts} hosts"));
    let at = |name: &str, settle: &str| outcome.mean(name, settle, second_answers);
    let naive = names.each_ref().map(|name| outcome.mean(name, "0s", twice));
    let falls = names.each_ref().map(|name| {
        compare(at(name, "0s"), at(name, "250us"), |naive, settled| settled * 10.0 < naive)
    });
    let few = ["2 hosts", "4 hosts", "8 hosts"].map(|name| at(name, "120us"));
    let tail = ["120us", "250us"].map(|settle| at("4 hosts", settle));
    let (two, many) = (at("2 hosts", "60us"), at("64 hosts", "60us"));
    // What the slow frames of the model predict: exponential, 60 us.
    let predicted = (130.0f64 / 60.0).exp();
    vec![
        Finding::new(
            "Without settling (D = 0) more than four of five connections are answered by several hosts.",
            every(naive.map(|share| Some(share? > 80.0))),
            format!("2 hosts {} %, 64 hosts {} %.", show(naive[0]), show(naive[5])),
        ),
        Finding::new(
            "Settling for 250 us lowers second answers to less than a tenth, whatever the number of hosts.",
            every(falls),
            format!(
                "Per 100 000, D = 0 and D = 250 us: 2 hosts {} and {}, 64 hosts {} and {}.",
                show(at("2 hosts", "0s")),
                show(at("2 hosts", "250us")),
                show(at("64 hosts", "0s")),
                show(at("64 hosts", "250us"))
            ),
        ),
        Finding::new(
            "The curves fall in two slopes: at first steeply, with the usual round trip of claims; then with the tail of late \
             interrupts, for 4 hosts by a factor of about 9 from 120 to 250 us (between 5 and 16).",
            tail[0].zip(tail[1]).map(|(first, last)| (5.0..16.0).contains(&(first / last))),
            format!(
                "2 hosts, D = 0 and 60 us: {} and {} per 100 000; 4 hosts, D = 120 and 250 us: {} and {} (predicted: \
                 divided by {}).",
                show(at("2 hosts", "0s")),
                show(at("2 hosts", "60us")),
                show(tail[0]),
                show(tail[1]),
                show(Some(predicted))
            ),
        ),
        Finding::new(
            "The number of hosts matters: at D = 120 us 8 hosts give more than four times as many second answers as 2. A \
             host whose interrupts are late hears all claims late, and each further host may be that one.",
            compare(few[0], few[2], |two, eight| eight > 4.0 * two),
            format!("2, 4 and 8 hosts: {} per 100 000.", few.map(show).join(", ")),
        ),
        Finding::new(
            "With 64 hosts a short D is not enough, as claims of so many hosts wait for each other in the \
             ports of the switch and in each daemon: at D = 60 us there are more than five times as many second \
             answers as with 2 hosts.",
            compare(two, many, |two, many| many > 5.0 * two),
            format!("Per 100 000: 2 hosts {}, 64 hosts {}.", show(two), show(many)),
        ),
    ]
}

/// Claims per connection against N.
pub fn suppression(effort: Effort) -> Result<Experiment> {
    const HOSTS: &str = "cluster.hosts=2,3,4,8,16,32,64";
    let contest = |name: &str, back_off: &str, window: &str| {
        let curve = Curve::new(
            name,
            &[
                ("cluster.rule", "contest"),
                ("cluster.back_off", back_off),
                ("cluster.window", window),
                ("cluster.settle", "250us"),
                ("run.warm_up", "0s"),
            ],
        );
        curve.set("run.duration", effort.seconds(1.2))
    };
    let rule = |name: &str, rule: &str| {
        let curve = Curve::new(name, &[("cluster.rule", rule)]);
        curve.set("run.duration", effort.seconds(1.2))
    };
    let curves = [
        contest("all at once", "none", "0s"),
        contest("uniform, 200 us", "uniform", "200us"),
        contest("truncated exponential, 200 us", "exponential", "200us"),
        contest("ranks, 250 us apart", "rank", "250us"),
        rule("clusterd", "clusterd"),
        rule("rule of 2000", "original"),
        rule("split by address", "split"),
        rule("hash (CLUSTERIP)", "clusterip"),
        rule("Saru", "saru"),
    ];
    let curves = curves.map(|curve| curve.set("load.connections_per_second", 500).over(HOSTS));
    Ok(Experiment {
        id: "suppression",
        title: "What keeps claims few, and answers single?",
        about: "All rules on the same clients. In the first four every host that has heard no claim for a connection \
            claims, settles for 250 us, and answers unless a better claim came; they differ in how long hosts hold \
            their claims back: not at all; a time drawn uniformly from 200 us; one drawn from a truncated exponential \
            distribution, which few draw short (Nonnenmacher and Biersack 1999); or in the order of ranks, the second \
            250 us after the first and so on. Then clusterd as it is, and its ancestors: the rule of 2000 has \
            neither wait, split, hash and Saru claim nothing.",
        weak: "All hosts agree on ranks and on who lives here; after a change of members they do not for a moment \
            (see the failure of a host and the partition below). Saru's heartbeats are not counted as claims. All \
            hosts see all SYNs; a SYN that only some see makes the next in rank claim.",
        curves: curves.into_iter().collect::<Result<_>>()?,
        along: Some(Along { label: "hosts", scale: 1.0, logarithmic: true }),
        charts: vec![
            Chart {
                kind: Kind::Lines(CLAIMS),
                only: |name| !matches!(name, "split by address" | "hash (CLUSTERIP)" | "Saru"),
                logarithmic: true,
                caption: "Claims sent for each connection, all hosts together (split, hash and Saru send none).",
            },
            Chart {
                kind: Kind::Lines(SECOND_ANSWERS),
                only: all,
                logarithmic: true,
                caption: "Second answers of the same runs.",
            },
            Chart {
                kind: Kind::Lines(CONNECT_MEDIAN),
                only: all,
                logarithmic: false,
                caption: "What it costs: median time until a client is connected. The way there and \
                    back alone is 200 us.",
            },
        ],
        tables: vec![CLAIMS, SECOND_ANSWERS, CONNECT_MEDIAN, CONNECT_P99],
        findings: suppression_findings,
    })
}

fn suppression_findings(outcome: &Outcome) -> Vec<Finding> {
    let claims =
        |name, hosts| outcome.mean(name, hosts, |run: &Summary| Some(run.claims_per_connection));
    let second = |name, hosts| outcome.mean(name, hosts, second_answers);
    let both = |name| format!("{} and {}", show(claims(name, "2")), show(claims(name, "64")));
    let at_once = claims("all at once", "64");
    let (uniform, exponential) =
        (claims("uniform, 200 us", "64"), claims("truncated exponential, 200 us", "64"));
    let ranks = [claims("ranks, 250 us apart", "64"), claims("clusterd", "64")];
    let silent = ["split by address", "hash (CLUSTERIP)", "Saru"];
    let spoken = silent.map(|name| claims(name, "16"));
    let doubled = silent.map(|name| second(name, "16"));
    vec![
        Finding::new(
            "If all claim at once, claims grow with the number of hosts.",
            compare(claims("all at once", "4"), at_once, |few, many| many > 8.0 * few),
            format!("2 and 64 hosts: {} claims for each connection.", both("all at once")),
        ),
        Finding::new(
            "A uniform wait lowers the slope, a truncated exponential one nearly takes it away.",
            compare(uniform, exponential, |uniform, exponential| {
                exponential < 3.0 && exponential < uniform
            })
            .and_then(|less| Some(less && uniform? < at_once? / 2.0)),
            format!(
                "2 and 64 hosts: uniform {}, exponential {}.",
                both("uniform, 200 us"),
                both("truncated exponential, 200 us")
            ),
        ),
        Finding::new(
            "In the order of ranks there are less than 1.3 claims for each connection at any number of hosts, in \
             clusterd, too.",
            every(ranks.map(|claims| Some(claims? < 1.3))),
            format!(
                "2 and 64 hosts: ranks {}, clusterd {}.",
                both("ranks, 250 us apart"),
                both("clusterd")
            ),
        ),
        Finding::new(
            "Rules that divide clients beforehand need no claims and give no second answers while nothing fails.",
            every(spoken.into_iter().chain(doubled).map(|count| Some(count? == 0.0))),
            format!(
                "16 hosts, split, hash, Saru: {} claims, {} second answers per 100 000.",
                spoken.map(show).join(", "),
                doubled.map(show).join(", ")
            ),
        ),
        Finding::new(
            "By the rule of 2000 nearly all hosts that claim also answer: more than half a second answer for each \
             connection at 2 hosts, more than 5 at 16.",
            compare(second("rule of 2000", "2"), second("rule of 2000", "16"), |two, many| {
                two > 5e4 && many > 5e5
            }),
            format!(
                "Per 100 000: 2 hosts {}, 16 hosts {}.",
                show(second("rule of 2000", "2")),
                show(second("rule of 2000", "16"))
            ),
        ),
    ]
}
