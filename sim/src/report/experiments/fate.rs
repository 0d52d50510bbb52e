//! What becomes of connections that two hosts answer.

use super::{compare, every, percent, show};
use crate::report::experiment::{Chart, Curve, Effort, Experiment, Finding, Kind, Quantity, all};
use crate::report::outcome::Outcome;
use crate::summary::Summary;

const SERVED: Quantity = Quantity { label: "served, %", of: served, rare: None };
const RESET: Quantity = Quantity { label: "reset, %", of: reset, rare: Some(100.0) };
const STALLED: Quantity = Quantity { label: "black-holed, %", of: stalled, rare: Some(100.0) };
const TWICE: Quantity = Quantity {
    label: "of all connections, answered by both, %",
    of: |run| percent(run.answered_twice, run.connections),
    rare: None,
};

fn served(run: &Summary) -> Option<f64> {
    percent(run.twice_served, run.answered_twice)
}

fn reset(run: &Summary) -> Option<f64> {
    percent(run.twice_reset, run.answered_twice)
}

fn stalled(run: &Summary) -> Option<f64> {
    percent(run.twice_stalled, run.answered_twice)
}

const NONE: &str = "clusterd, no guard";
const GREETS: &str = "clusterd, no guard, server greets";
const OLD: &str = "clusterd, drops INVALID, before 6.1";
const NEW: &str = "clusterd, drops INVALID, since 6.1";
const RST: &str = "clusterd, guard rst";
const STRICT: &str = "clusterd, guard strict";
const GATE: &str = "clusterd, guard gate";
const KEEPS: &str = "contest, guard rst";
const RETRACTS: &str = "contest, guard rst, retracts";

/// Fate of second answers by guard.
pub fn fate(effort: Effort) -> Experiment {
    let two = |curve: Curve| {
        let curve = curve.set("cluster.hosts", 2).set("client.patience", "4s");
        let curve = curve.set("load.connections_per_second", 500);
        curve.set("run.duration", effort.seconds(5.0))
    };
    let core = |name: &str, guard: &str| {
        let curve = Curve::new(name, &[("cluster.mode", "claim"), ("network.claim_loss", "100%")]);
        two(curve.set("cluster.guard", guard))
    };
    let contest = |name: &str| {
        two(Curve::new(
            name,
            &[("cluster.rule", "contest"), ("cluster.back_off", "none"), ("cluster.settle", "0s")],
        ))
    };
    Experiment {
        id: "fate",
        title: "What becomes of a connection that two hosts answer?",
        about: "Two hosts answer as many connections as possible: those of clusterd as all their claims are lost, \
            those of a contest as claims do not settle. The client goes on with the SYN-ACK that comes first and \
            acknowledges its number. The other host, whose number that is not, gets that \
            ACK, too; its kernel answers by a RST, as RFC 9293 demands.\n\n\
            A guard may keep that in. Firewalls often drop what connection tracking calls INVALID; since Linux \
            6.1 it no longer calls half of such ACKs so. Guard rst also drops RSTs of connections that no client has \
            acknowledged; guard strict lets no ACK through that does not name the host's own number, by asking the daemon about the first; \
            guard gate does the same in a kernel module.\n\n\
            Retraction is what an earlier draft of the protocol wanted: a host that has answered and then hears a \
            better claim removes its half-open connection without a word. If the client has chosen that one, \
            nobody is left to talk to it.",
        weak: "The first numbers of connections are drawn independently of each other, as by kernels of machines of \
            their own; within 66 001 of each other, one of 65 000 pairs, guard rst errs. There are no middleboxes \
            that pin the first number they see. Clients are those of Linux.",
        curves: vec![
            core(NONE, "none"),
            core(GREETS, "none").set("service.first_word", "server"),
            core(OLD, "invalid").set("kernel.conntrack", "before-6.1"),
            core(NEW, "invalid"),
            core(RST, "rst"),
            core(STRICT, "strict"),
            core(GATE, "gate"),
            contest(KEEPS),
            contest(RETRACTS).set("cluster.retract", true),
        ],
        along: None,
        charts: vec![Chart {
            kind: Kind::Bars(vec![SERVED, RESET, STALLED]),
            only: all,
            logarithmic: false,
            caption: "Of the connections that both hosts have answered: how many were served, reset, or got no \
                answer from anybody within 4 s.",
        }],
        tables: vec![TWICE, SERVED, RESET, STALLED],
        findings,
    }
}

fn findings(outcome: &Outcome) -> Vec<Finding> {
    let at = |name, of| outcome.mean(name, "", of);
    let reset = |name| at(name, reset);
    let guarded = [RST, STRICT, GATE, KEEPS].map(|name| at(name, served));
    let black_holed = at(RETRACTS, stalled);
    let kept = at(KEEPS, stalled);
    vec![
        Finding::new(
            "Without a guard every connection that two hosts answer is reset.",
            reset(NONE).map(|share| share > 99.0),
            format!(
                "{} %; if the server speaks first, {} %.",
                show(reset(NONE)),
                show(reset(GREETS))
            ),
        ),
        Finding::new(
            "To drop what is INVALID was enough before Linux 6.1, and saves only about half since then.",
            compare(reset(OLD), reset(NEW), |old, new| old < 1.0 && (40.0..60.0).contains(&new)),
            format!("Reset before 6.1: {} %, since: {} %.", show(reset(OLD)), show(reset(NEW))),
        ),
        Finding::new(
            "With the guards of clusterd all are served: the client has decided.",
            every(guarded.map(|share| Some(share? > 99.9))),
            format!(
                "Guard rst, strict, gate, and rst in the contest: {} %.",
                guarded.map(show).join(", ")
            ),
        ),
        Finding::new(
            "Silent retraction leaves about half of the clients with nobody, on a workload on which without it all are served.",
            compare(black_holed, kept, |hole, kept| (35.0..65.0).contains(&hole) && kept == 0.0),
            format!(
                "With retraction {} % black-holed, without {} %.",
                show(black_holed),
                show(kept)
            ),
        ),
    ]
}
