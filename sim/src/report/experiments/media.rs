//! The medium for which claims were invented, and those of today.

use anyhow::Result;

use super::{CLAIMS, CONNECT_MEDIAN, CONNECT_P99, compare, every, show};
use crate::report::experiment::{
    Along, Chart, Curve, Effort, Experiment, Finding, Kind, Quantity, all,
};
use crate::report::outcome::Outcome;
use crate::summary::Summary;

const SECOND: Quantity =
    Quantity { label: "second SYN-ACKs per connection", of: second, rare: Some(1.0) };
const COLLISIONS: Quantity = Quantity {
    label: "collisions per connection",
    of: |run| (run.connections > 0).then(|| run.collisions as f64 / run.connections as f64),
    rare: None,
};

fn second(run: &Summary) -> Option<f64> {
    (run.connections > 0).then_some(run.second_syn_acks_per_100k / 1e5)
}

/// Hub against switch.
pub fn media(effort: Effort) -> Result<Experiment> {
    const HOSTS: &str = "cluster.hosts=2,3,4,6,8,16";
    let original = ("cluster.rule", "original");
    let echo = ("cluster.echo", "true");
    let core = ("cluster.rule", "clusterd");
    let curves = [
        ("rule of 2000, hub", "hub", vec![original]),
        ("rule of 2000, switch", "switch", vec![original]),
        ("rule of 2000, switches below one", "tree", vec![original]),
        ("with echo, hub", "hub", vec![original, echo]),
        ("with echo, switch", "switch", vec![original, echo]),
        ("with echo, switches below one", "tree", vec![original, echo]),
        ("clusterd, hub", "hub", vec![core]),
        ("clusterd, hub of 10 Mbit/s", "hub", vec![core, ("network.rate", "10Mbit")]),
        ("clusterd, switch", "switch", vec![core]),
        ("clusterd, switches below one", "tree", vec![core]),
    ];
    let curves = curves.map(|(name, medium, more)| {
        let mut settings = vec![
            ("network.medium", medium),
            ("network.rate", "100Mbit"),
            ("load.connections_per_second", "100"),
        ];
        settings.extend(more);
        Curve::new(name, &settings).set("run.duration", effort.seconds(10.0)).over(HOSTS)
    });
    Ok(Experiment {
        id: "media",
        title: "Does the first claim on the wire win? Hub against switch",
        about: "The rule of 2000 was made for hubs: every host claims at once, and the first claim that it sees wins, its own \
            included. On a hub all frames pass one wire, one after the other. On a switch each port has a queue of its own, and \
            there is no order that all see. All media here have 100 Mbit/s, unless their name says otherwise.\n\n\
            When does a host see its own claim? Taps of Linux see a frame when it is handed to the driver, before the wire has \
            decided whose comes first; that is how the rule ran. With echo, a host takes its own claim as seen only \
            when the others get it, too: on the hub when it has been on the wire, on a switch as if the switch sent it \
            back. Then second answers are where hosts saw claims in different orders. clusterd is on the same \
            media for comparison.",
        weak: "Hosts of 2000 were slower, and their claims further apart. The modelled switch puts frames into the queues of \
            all ports in one order; a real one with several chips or queues may not, and then is more like the switches below \
            one. No switch sends frames back; a gateway may, from one \
            port, so in one order again, which is not simulated. The hub has no repeaters.",
        curves: curves.into_iter().collect::<Result<_>>()?,
        along: Some(Along { label: "hosts", scale: 1.0, logarithmic: true }),
        charts: vec![
            Chart {
                kind: Kind::Lines(SECOND),
                only: all,
                logarithmic: true,
                caption: "Second answers for each connection.",
            },
            Chart {
                kind: Kind::Lines(CONNECT_MEDIAN),
                only: all,
                logarithmic: true,
                caption: "Median time until a client is connected.",
            },
        ],
        tables: vec![SECOND, CLAIMS, COLLISIONS, CONNECT_MEDIAN, CONNECT_P99],
        findings,
    })
}

fn findings(outcome: &Outcome) -> Vec<Finding> {
    let at = |name, hosts| outcome.mean(name, hosts, second);
    let plain = ["rule of 2000, hub", "rule of 2000, switch"].map(|name| at(name, "4"));
    let one = ["with echo, hub", "with echo, switch"].map(|name| at(name, "4"));
    let tree = at("with echo, switches below one", "4");
    let core = [
        "clusterd, hub",
        "clusterd, hub of 10 Mbit/s",
        "clusterd, switch",
        "clusterd, switches below one",
    ];
    let core = core.map(|name| at(name, "4"));
    vec![
        Finding::new(
            "The rule of 2000, as it ran, gives second answers on a switch and on a hub: with 4 hosts more than one for each \
             connection.",
            every(plain.map(|second| Some(second? > 1.0))),
            format!("Hub {}, switch {} for each connection.", show(plain[0]), show(plain[1])),
        ),
        Finding::new(
            "With echo it works where all hosts see one order: on a hub, and on a single switch that passes frames on one after \
             the other, less than one connection in a thousand has a second answer.",
            every(one.map(|second| Some(second? < 1e-3))),
            format!("4 hosts: hub {}, switch {} for each connection.", show(one[0]), show(one[1])),
        ),
        Finding::new(
            "With echo it does not work where there are several orders: with two switches below a third, each sees the claims \
             of its own hosts first, and most connections have an answer from each.",
            tree.map(|second| second > 0.8),
            format!("4 hosts on two switches: {} second answers for each connection.", show(tree)),
        ),
        Finding::new(
            "clusterd gives less than one second answer for fifty connections on all of these media, with 4 hosts; those that there \
             are come on the slow hub, on which frames wait for the wire.",
            every(core.map(|second| Some(second? < 0.02)))
                .zip(every([compare(core[1], core[2], |hub, switch| hub >= switch)]))
                .map(|(few, there)| few && there),
            format!("Hubs of 100 and 10 Mbit/s, switch, tree: {}.", core.map(show).join(", ")),
        ),
    ]
}
