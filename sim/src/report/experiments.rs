//! The experiments of the report.

use std::time::Duration;

use super::{Axis, Cell, Experiment};
use crate::scenario::{Guard, Scenario};

/// All experiments. The smaller the share (0 to 1), the shorter the runs.
pub fn experiments(share: f64) -> Vec<Experiment> {
    let base = base(share);
    vec![
        settling(&base),
        suppression(&base),
        latency(&base),
        loss(&base),
        duplicates_by_guard(&base),
        load(&base),
        failover(&base),
        pauses(&base),
        flood(&base),
        partition(&base),
        media(&base),
    ]
}

fn base(share: f64) -> Scenario {
    let seconds = (20.0 * share).max(0.5);
    Scenario {
        duration: Duration::from_secs_f64(seconds),
        connections_per_second: 2_000.0,
        ..Scenario::default()
    }
}

const fn linear(label: &'static str) -> Axis {
    Axis { label, logarithmic: false }
}

const fn logarithmic(label: &'static str) -> Axis {
    Axis { label, logarithmic: true }
}

const SECOND_ANSWERS: Axis = logarithmic("second SYN-ACKs per 100 000 connections");

/// A scenario with some parameters set. The texts are those of this file.
fn with(base: &Scenario, settings: &[(&str, &str)]) -> Scenario {
    let mut scenario = base.clone();
    for (key, value) in settings {
        if let Err(error) = scenario.set(key, value) {
            unreachable!("an experiment is well written: {error}");
        }
    }
    scenario
}

fn cell(series: impl Into<String>, x: f64, scenario: Scenario) -> Cell {
    Cell { series: series.into(), x, scenario }
}

fn settling(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for hosts in ["2", "4", "16"] {
        for settle in [0, 30, 60, 120, 250, 500, 1_000] {
            let settings = [
                ("cluster.rule", "contest"),
                ("cluster.back_off", "none"),
                ("cluster.hosts", hosts),
                ("cluster.settle", &format!("{settle}us")),
            ];
            cells.push(cell(format!("{hosts} hosts"), f64::from(settle), with(base, &settings)));
        }
    }
    Experiment {
        title: "How long must a claim settle?",
        shows: "Every host claims at once, waits D, and accepts unless it has heard a better claim. \
            Without a wait (D = 0) nearly every connection is answered by all hosts: on a switch no \
            sender hears its own claim come back, so all who claim at one moment look first to \
            themselves. The curves fall with the tails of the claims' delay and hardly \
            depend on the number of hosts.",
        weak: "The tails are those of the modelled interrupts, wake-ups and switch, not of a \
            machine of yours.",
        x: linear("settling time D, us"),
        y: SECOND_ANSWERS,
        figure: "second_syn_acks_per_100k",
        scale: 1.0,
        cells,
    }
}

fn suppression(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, back_off, window) in [
        ("all at once", "none", "0s"),
        ("uniform, 200 us", "uniform", "200us"),
        ("truncated exponential, 200 us", "exponential", "200us"),
        ("in order of rank, 250 us apart", "rank", "250us"),
    ] {
        for hosts in [2, 3, 4, 8, 16, 32] {
            let settings = [
                ("cluster.rule", "contest"),
                ("cluster.back_off", back_off),
                ("cluster.window", window),
                ("cluster.settle", "250us"),
                ("cluster.hosts", &hosts.to_string()),
            ];
            cells.push(cell(name, f64::from(hosts), with(base, &settings)));
        }
    }
    Experiment {
        title: "What keeps claims few?",
        shows: "Claims for each connection if hosts claim at once, wait a random time, or wait \
            for their turn in an order that all compute alike. Only the last stays near one \
            at any number of hosts, and the first host in the order does not wait.",
        weak: "All hosts agree on the order here; after a change of members they do not for a moment.",
        x: linear("hosts"),
        y: logarithmic("claims per connection"),
        figure: "claims_per_connection",
        scale: 1.0,
        cells,
    }
}

fn latency(base: &Scenario) -> Experiment {
    let busy = "lognormal 6us 0.7 + 2% exp 2ms";
    let mut cells = Vec::new();
    for (name, settings) in [
        ("clusterd", vec![("cluster.rule", "clusterd")]),
        ("clusterd, race", vec![("cluster.pacing", "race")]),
        (
            "claims settle 250 us",
            vec![
                ("cluster.rule", "contest"),
                ("cluster.settle", "250us"),
                ("cluster.back_off", "none"),
            ],
        ),
        ("fixed hash", vec![("cluster.rule", "clusterip")]),
    ] {
        for (number, wake) in [
            "lognormal 6us 0.7",
            "lognormal 6us 0.7 + 0.1% exp 300us",
            "lognormal 6us 0.7 + 0.5% exp 1ms",
            busy,
        ]
        .iter()
        .enumerate()
        {
            let mut all = settings.clone();
            all.push(("host.wake", wake));
            cells.push(cell(name, number as f64, with(base, &all)));
        }
    }
    Experiment {
        title: "What does it cost a connection, also on busy hosts?",
        shows: "The 99th percentile of the time until a client is connected, while daemons wake up \
            later and later: 0 never late, 1 one in a thousand by 300 us, 2 one in 200 by 1 ms, 3 \
            one in 50 by 2 ms. Waiting on the side of the backups costs nothing while all \
            is well; a host that is late is overtaken after one slot.",
        weak: "The client is 200 us away in all; services are not slowed down by what delays daemons.",
        x: linear("how busy the hosts are, see text"),
        y: linear("99th percentile of connect time, us"),
        figure: "connect_p99_us",
        scale: 1.0,
        cells,
    }
}

fn loss(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, settings) in [
        ("clusterd", vec![("cluster.mode", "claim")]),
        ("clusterd, bursts of 10", vec![("cluster.mode", "claim")]),
        ("clusterd, with hash fallback", vec![("cluster.mode", "auto")]),
        (
            "claims in order, said once",
            vec![("cluster.rule", "contest"), ("cluster.window", "1ms"), ("cluster.settle", "0s")],
        ),
    ] {
        for percent in [0.1, 0.3, 1.0, 3.0, 10.0, 30.0] {
            let text = format!("{percent}%");
            let key =
                if name.contains("bursts") { "network.burst_loss" } else { "network.claim_loss" };
            let mut all = settings.clone();
            all.push((key, &text));
            cells.push(cell(name, percent, with(base, &all)));
        }
    }
    Experiment {
        title: "What if claims get lost?",
        shows: "Said once, a lost claim is a second answer. Said again when another claim shows that \
            it was not heard, two losses are needed: the slope is two. Losses in bursts hit \
            both, and the slope is one again. With the fallback hosts that hear little \
            decide by hash and need no claims at all.",
        weak: "In bursts data and SYNs are lost, too; real bursts come from full queues and hit \
            all receivers of a port.",
        x: logarithmic("claims lost, percent"),
        y: SECOND_ANSWERS,
        figure: "second_syn_acks_per_100k",
        scale: 1.0,
        cells,
    }
}

fn duplicates_by_guard(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, guard) in [
        ("none", Guard::None),
        ("INVALID is dropped", Guard::Invalid),
        ("rst", Guard::Rst),
        ("strict", Guard::Strict),
    ] {
        for (x, conntrack) in [(0.0, "before-6.1"), (1.0, "6.1")] {
            let settings = [
                ("cluster.mode", "claim"),
                ("network.claim_loss", "100%"),
                ("kernel.conntrack", conntrack),
                ("load.connections_per_second", "500"),
            ];
            let scenario = Scenario { guard, ..with(base, &settings) };
            cells.push(cell(name, x, scenario));
        }
    }
    Experiment {
        title: "What becomes of connections that several hosts answer?",
        shows: "All claims are lost, so every host answers every SYN. The client acknowledges one \
            of them. The others' kernels answer that by a RST, as RFC 9293 demands, and it ends \
            the good connection, unless it is kept in. With the guards of clusterd none fails: the \
            client decides, and the rest is silent. (0: connection tracking before Linux 6.1, \
            1: since then.)",
        weak: "Sequence numbers are drawn independently; within 66 001 of each other, one in 65 000 \
            pairs, guard rst errs.",
        x: linear("connection tracking before (0) or since (1) Linux 6.1"),
        y: linear("connections that were reset"),
        figure: "reset",
        scale: 1.0,
        cells,
    }
}

fn load(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, rule, pacing) in [
        ("at random", "random", "rank"),
        ("less busy of two", "power-of-two", "rank"),
        ("least busy (JSQ)", "shortest-queue", "rank"),
        ("fixed hash", "clusterip", "rank"),
        ("clusterd, race", "clusterd", "race"),
        ("clusterd, ranks", "clusterd", "rank"),
    ] {
        for percent in [30.0, 50.0, 70.0, 80.0, 90.0] {
            // Four hosts of one processor each, 10 ms of work for a connection.
            let rate = 4.0 * 100.0 * percent / 100.0;
            let settings = [
                ("cluster.rule", rule),
                ("cluster.pacing", pacing),
                ("cluster.hosts", "4"),
                ("service.speeds", "1"),
                ("service.time", "exp 10ms"),
                ("load.connections_per_second", &rate.to_string()),
            ];
            let scenario = with(base, &settings);
            let duration = scenario.duration * 3;
            cells.push(cell(name, percent, Scenario { duration, ..scenario }));
        }
    }
    Experiment {
        title: "How well is load spread?",
        shows: "Mean response time of four hosts with one processor each. An omniscient balancer \
            that looks for the least busy host is the best that can be done. Hosts that race are \
            no better than chance here, since their daemons answer at once however busy the \
            services are; the order of ranks is a hash of the connection and knows no load.",
        weak: "Services do not slow down the daemons of their hosts. Ranking by load is not part \
            of the protocol yet.",
        x: linear("load, percent of capacity"),
        y: logarithmic("mean response time, ms"),
        figure: "response_mean_us",
        scale: 1e-3,
        cells,
    }
}

fn failover(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, rule) in [("clusterd", "clusterd"), ("fixed hash", "clusterip"), ("Saru", "saru")] {
        for (x, fault) in [(0.0, None), (1.0, Some("3s kill h1")), (2.0, Some("3s stop h1 500ms"))]
        {
            let mut scenario = with(base, &[("cluster.rule", rule), ("client.patience", "5s")]);
            scenario.duration = Duration::from_secs(4);
            let fault = fault.map(|text| text.parse());
            scenario.faults.extend(fault.into_iter().flatten());
            cells.push(cell(name, x, scenario));
        }
    }
    Experiment {
        title: "What does the death of a host cost?",
        shows: "The longest that a client waited to be connected (0: nothing happened, 1: one of three hosts \
            dies, 2: its daemon stops for half a second). Others overtake a silent host after a \
            slot; a fixed hash leaves its share unanswered for good, an elected leader until it \
            has noticed.",
        weak: "Connections that the dead host had are lost in all three.",
        x: linear("fault, see text"),
        y: logarithmic("longest connect time, ms"),
        figure: "connect_max_us",
        scale: 1e-3,
        cells,
    }
}

fn pauses(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, drain) in [("reads all claims, then decides", "true"), ("does not", "false")] {
        for pause in [10, 100, 1_000, 10_000, 100_000] {
            let settings = [
                ("cluster.drain", drain),
                ("host.pause", &format!("{pause}us")),
                ("host.pauses_per_second", "5"),
            ];
            cells.push(cell(name, f64::from(pause), with(base, &settings)));
        }
    }
    Experiment {
        title: "What if a daemon is kept from running?",
        shows: "Five times a second each daemon stops for so long. What others have said meanwhile \
            waits in its socket. If it reads that before it decides, only a pause in the few \
            microseconds between reading and deciding makes a second answer.",
        weak: "Pauses come between steps of the daemon, not within a system call.",
        x: logarithmic("length of a pause, us"),
        y: SECOND_ANSWERS,
        figure: "second_syn_acks_per_100k",
        scale: 1.0,
        cells,
    }
}

fn flood(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, mode) in [("by claims", "claim"), ("as it sees fit", "auto")] {
        for rate in [1_000, 10_000, 30_000, 100_000] {
            let settings = [
                ("cluster.mode", mode),
                ("load.flood_per_second", &rate.to_string()),
                ("load.connections_per_second", "100"),
            ];
            let mut scenario = with(base, &settings);
            scenario.duration = scenario.duration.min(Duration::from_secs(3));
            cells.push(cell(name, f64::from(rate), scenario));
        }
    }
    Experiment {
        title: "What is left for clients in a flood of SYNs?",
        shows: "Spoofed SYNs beside 100 real connections a second. By claims, every daemon handles every \
            SYN; beyond its capacity clients wait for a place in the queue. Left to itself a \
            daemon that is busy hands SYNs to its kernel, which divides them by hash.",
        weak: "The kernel's own work for a SYN is free here, and its table of half-open connections \
            has no bound; so the plateau is flatter than in reality.",
        x: logarithmic("spoofed SYNs per second"),
        y: logarithmic("99th percentile of connect time, ms"),
        figure: "connect_p99_us",
        scale: 1e-3,
        cells,
    }
}

fn partition(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, mode) in [("by claims", "claim"), ("as it sees fit", "auto")] {
        for seconds in [0, 1, 2, 4, 8] {
            let mut scenario = with(base, &[("cluster.mode", mode), ("run.duration", "12s")]);
            if seconds > 0 {
                let texts = ["3s part h1".to_owned(), format!("{}s heal", 3 + seconds)];
                scenario.faults.extend(texts.iter().filter_map(|text| text.parse().ok()));
            }
            cells.push(cell(name, f64::from(seconds), scenario));
        }
    }
    Experiment {
        title: "What if the hosts do not hear each other?",
        shows: "For some seconds no claim passes between one host and the two others, while all hear \
            the clients. Both sides answer: second answers grow with the time. By the guard none \
            of them harms a connection.",
        weak: "Claims are cut and nothing else; a partition that cuts clients off as well has no \
            second answers.",
        x: linear("length of the partition, s, of 12"),
        y: linear("second SYN-ACKs per 100 connections"),
        figure: "second_syn_acks_per_100k",
        scale: 1e-3,
        cells,
    }
}

fn media(base: &Scenario) -> Experiment {
    let mut cells = Vec::new();
    for (name, medium) in
        [("hub", "hub"), ("switch", "switch"), ("switches below a switch", "tree")]
    {
        for hosts in [2, 3, 4, 6, 8] {
            let settings = [
                ("cluster.rule", "original"),
                ("network.medium", medium),
                ("network.rate", "100Mbit"),
                ("cluster.hosts", &hosts.to_string()),
                ("load.connections_per_second", "500"),
            ];
            cells.push(cell(name, f64::from(hosts), with(base, &settings)));
        }
    }
    Experiment {
        title: "Does the first claim on the wire win?",
        shows: "The rule of 2000: every host claims at once, and the first claim that it sees \
            wins, its own included. It was made for hubs, where all frames pass one wire in \
            one order. But a sender sees its own claim when it hands it to the driver, before the wire \
            has decided, so also there most connections are answered more than once.",
        weak: "Original hosts were slower, and their claims further apart.",
        x: linear("hosts"),
        y: linear("second SYN-ACKs per connection"),
        figure: "second_syn_acks_per_100k",
        scale: 1e-5,
        cells,
    }
}
