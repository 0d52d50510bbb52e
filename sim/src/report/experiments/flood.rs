//! SYNs that nobody means.

use anyhow::Result;

use super::{BUSY, CLAIMS, CONNECT_MEDIAN, CONNECT_P99, NOT_SERVED, compare, show};
use crate::report::experiment::{
    Along, Chart, Curve, Effort, Experiment, Finding, Kind, Quantity, all,
};
use crate::report::outcome::Outcome;
use crate::summary::Summary;

const FRAMES: Quantity = Quantity {
    label: "claim frames sent per connection",
    of: |run| Some(run.frames_per_connection),
    rare: None,
};

/// Clients in a flood.
pub fn flood(effort: Effort) -> Result<Experiment> {
    const RATES: &str = "load.flood_per_second=1000,10000,50000,200000";
    let curve = |name: &str, settings: &[(&'static str, &str)]| {
        let curve = Curve::new(name, settings).set("load.connections_per_second", 200);
        curve.set("run.duration", effort.seconds(1.5)).over(RATES)
    };
    Ok(Experiment {
        id: "flood",
        title: "What is left for clients in a flood of SYNs?",
        about: "Spoofed SYNs, whose addresses answer nothing, beside 200 real connections a second, on three hosts. As \
            every host sees every SYN, a flood costs each of them. If clusterd must claim, every daemon handles every SYN. Left to \
            itself a daemon that has too much to do lets all decide by hash, and its kernel then drops \
            or answers SYNs without asking the daemon.",
        weak: "What the kernel itself does for a SYN is free here, so the plateau is flatter and reaches further than in \
            reality, and memory is not modelled. The flood begins with the measurement, so what is shown contains the \
            moment in which hosts notice it.\n\n\
            All rules decide in a daemon here; the hash of CLUSTERIP would in the kernel, and has no such knee in reality.",
        curves: vec![
            curve("clusterd, claims", &[("cluster.mode", "claim")])?,
            curve("clusterd, auto", &[("cluster.mode", "auto")])?,
            curve("clusterd, by hash", &[("cluster.mode", "hash")])?,
            curve("rule of 2000", &[("cluster.rule", "original")])?,
            curve("hash (CLUSTERIP)", &[("cluster.rule", "clusterip")])?,
            curve("split by address", &[("cluster.rule", "split")])?,
            curve("Saru", &[("cluster.rule", "saru")])?,
        ],
        along: Some(Along { label: "spoofed SYNs per second", scale: 1.0, logarithmic: true }),
        charts: vec![
            Chart {
                kind: Kind::Lines(CONNECT_MEDIAN),
                only: all,
                logarithmic: true,
                caption: "How long the median real connection takes to be connected. A curve bends upwards where SYNs come faster than \
                    a daemon decides about them.",
            },
            Chart {
                kind: Kind::Lines(CONNECT_P99),
                only: all,
                logarithmic: true,
                caption: "How long the slowest real connection of a hundred takes to be connected: what grows first, as it is in the \
                    longest queue.",
            },
            Chart {
                kind: Kind::Lines(BUSY),
                only: all,
                logarithmic: false,
                caption: "How much of the time daemons are busy, mean of the hosts. At 100 % packets wait; a line that falls belongs to hosts \
                    that have let their kernels decide.",
            },
            Chart {
                kind: Kind::Lines(NOT_SERVED),
                only: all,
                logarithmic: false,
                caption: "Real connections that were not served: their SYNs found no room, or their clients have lost patience.",
            },
        ],
        tables: vec![CONNECT_MEDIAN, CONNECT_P99, BUSY, NOT_SERVED, FRAMES, CLAIMS],
        findings,
    })
}

fn findings(outcome: &Outcome) -> Vec<Finding> {
    let p99 = |run: &Summary| run.connect_us.map(|connect| connect.p99);
    let median = |run: &Summary| run.connect_us.map(|connect| connect.p50);
    let busy = |run: &Summary| Some(run.daemon_busy_share * 100.0);
    let slow = |name| outcome.mean(name, "200000", median);
    let (claims, auto) = (slow("clusterd, claims"), slow("clusterd, auto"));
    let work =
        ["clusterd, claims", "clusterd, auto"].map(|name| outcome.mean(name, "200000", busy));
    let calm = outcome.mean("clusterd, claims", "1000", median);
    let changing = outcome.mean("clusterd, auto", "200000", p99);
    vec![
        Finding::new(
            "If clusterd must claim, a flood of 200 000 SYNs a second makes the median client wait more than ten times as \
             long as one of 1000.",
            compare(calm, claims, |calm, claims| claims > 10.0 * calm),
            format!("{} us in a flood of 1000, {} us in one of 200 000.", show(calm), show(claims)),
        ),
        Finding::new(
            "Left to itself it does better there: the median client waits less than a tenth of that, and daemons have less to do. The \
             p99 still shows the fraction of a second before hosts have noticed.",
            compare(auto, claims, |auto, claims| auto < claims / 10.0)
                .and_then(|faster| Some(faster && work[1]? < work[0]?)),
            format!(
                "Median {} us instead of {} us (p99 {} us); daemons busy {} % instead of {} %.",
                show(auto),
                show(claims),
                show(changing),
                show(work[1]),
                show(work[0])
            ),
        ),
    ]
}
