//! The files of a recorded run. `sim/README.md` describes them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clusterd::protocol::{Config, Mode, Pacing};
use serde::Serialize;

use super::histogram::Histogram;
use super::{Components, RecordedRun, each};
use crate::lab::faults::FaultKind;
use crate::lab::hosts::name_of;
use crate::lab::oracle::Handshake;
use crate::lab::topology::host_name;

/// Before the first SYN of a simulation: hosts need 1.3 s to join.
const WARM_UP: Duration = Duration::from_secs(2);

/// What the lab has measured: `lab.json`.
#[derive(Debug, Serialize)]
struct LabFigures {
    version: &'static str,
    kernel: String,
    processors: usize,
    command: String,
    hosts: usize,
    connections: u64,
    failed: u64,
    seconds: f64,
    syns_per_connection: f64,
    claims_per_connection: f64,
    second_syn_acks_per_100k: f64,
    /// First SYN to first SYN-ACK at the client's interface.
    connect_us: Quantiles,
    /// What a client's program waits for `connect`.
    connect_call_us: Quantiles,
    /// Of the first SYN-ACKs, by host.
    share_of_host: Vec<f64>,
    /// How much later than at the first host SYNs arrive at each, and wake-ups there.
    syn_skew_us: Vec<Quantiles>,
    wake_us: Vec<Quantiles>,
    /// Shares of the time that all daemons' hot loops were busy.
    daemon_busy: f64,
    /// Mean cost in nanoseconds and how many: frames, packets, drops, accepts, sent.
    costs: Vec<(&'static str, u64, u32)>,
    components_us: Vec<(&'static str, Quantiles)>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Quantiles {
    count: u64,
    mean: f64,
    p10: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
}

impl Quantiles {
    fn of(histogram: &Histogram) -> Self {
        let at = |share| histogram.quantile_us(share);
        Self {
            count: histogram.count(),
            mean: (histogram.mean_us() * 10.0).round() / 10.0,
            p10: at(0.1),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
        }
    }

    fn of_times(times: impl Iterator<Item = Duration>) -> Self {
        let mut histogram = Histogram::default();
        times.for_each(|time| histogram.add(time));
        Self::of(&histogram)
    }
}

/// Writes all files.
pub fn write(
    directory: &Path,
    run: &RecordedRun<'_>,
    config: &Config,
    components: &Components,
) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    let Components {
        wake,
        timer,
        access,
        fabric,
        answer_rest,
        one_way,
        claim_round_trip,
        service,
        ..
    } = components;
    for (name, histogram) in [
        ("wake.hist", wake),
        ("timer.hist", timer),
        ("access.hist", access),
        ("fabric.hist", fabric),
        ("answer_rest.hist", answer_rest),
        ("claim_one_way.hist", one_way),
        ("claim_round_trip.hist", claim_round_trip),
        ("service.hist", service),
    ] {
        put(name, histogram.to_text())?;
    }
    put("arrivals.csv", arrivals(run.handshakes))?;
    put("scenario.toml", scenario(run, config, components))?;
    let figures = figures(run, components);
    put("lab.json", serde_json::to_string_pretty(&figures).context("write lab.json")? + "\n")
}

/// One line for each attempt, in the order of their SYNs.
fn arrivals(handshakes: &[Handshake]) -> String {
    let mut text = "time_us,client,connect_us,host,answered_by\n".to_owned();
    let begin = handshakes.first().map_or(Duration::ZERO, |first| first.opened);
    for handshake in handshakes {
        let &Handshake { client, opened, connected, answered_by, .. } = handshake;
        let time = (opened - begin).as_micros();
        let (connect, host) = connected.map_or_else(Default::default, |(host, connect)| {
            (connect.as_micros().to_string(), host_name(host))
        });
        writeln!(text, "{time},{client},{connect},{host},{answered_by}")
            .expect("a string takes all");
    }
    text
}

fn figures(run: &RecordedRun<'_>, components: &Components) -> LabFigures {
    let RecordedRun { args, handshakes, attempts, wire, faults: _ } = *run;
    let count = handshakes.len().max(1) as f64;
    let claims = &wire.claims;
    let entries = claims.claim_entries + claims.own_entries + claims.release_entries;
    let won = |host: usize| {
        let its = handshakes.iter().filter(|it| it.connected.is_some_and(|(by, _)| by == host));
        its.count() as f64 / count
    };
    let span = handshakes.last().zip(handshakes.first());
    let span = span.map_or(Duration::ZERO, |(last, first)| last.opened - first.opened);
    let Components {
        wake,
        timer,
        access,
        fabric,
        answering,
        answer_rest,
        sending,
        one_way,
        claim_round_trip,
        service,
        work,
        by_host,
        ..
    } = components;
    let all = span.as_secs_f64() * args.cluster.nodes as f64;
    LabFigures {
        version: env!("CARGO_PKG_VERSION"),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
        processors: std::thread::available_parallelism().map_or(0, Into::into),
        command: args.command_line(),
        hosts: args.cluster.nodes,
        connections: handshakes.len() as u64,
        failed: attempts.iter().filter(|attempt| attempt.outcome.is_err()).count() as u64,
        seconds: span.as_secs_f64(),
        syns_per_connection: wire.syns as f64 / count,
        claims_per_connection: entries as f64 / count,
        second_syn_acks_per_100k: wire.second_syn_acks as f64 / count * 1e5,
        connect_us: Quantiles::of_times(handshakes.iter().filter_map(|it| Some(it.connected?.1))),
        connect_call_us: Quantiles::of_times(attempts.iter().filter_map(|it| it.connect)),
        share_of_host: (0..args.cluster.nodes).map(won).collect(),
        syn_skew_us: by_host.iter().map(|(skew, _)| Quantiles::of(skew)).collect(),
        wake_us: by_host.iter().map(|(_, wake)| Quantiles::of(wake)).collect(),
        daemon_busy: work.busy.as_secs_f64() / all.max(1e-9),
        costs: [
            ("frame", work.frames),
            ("packet", work.packets),
            ("drop", work.drops),
            ("accept", work.accepts),
            ("send", work.sent),
        ]
        .map(|(name, work)| (name, each(work), work.count))
        .into(),
        components_us: [
            ("wake", wake),
            ("wake_by_frame", &components.wake_by_frame),
            ("timer", timer),
            ("access", access),
            ("fabric", fabric),
            ("answering", answering),
            ("answer_rest", answer_rest),
            ("sending", sending),
            ("claim_one_way", one_way),
            ("claim_round_trip", claim_round_trip),
            ("service", service),
        ]
        .map(|(name, histogram)| (name, Quantiles::of(histogram)))
        .into(),
    }
}

/// A fault at its time in the simulation, where the first SYN comes after the warm-up. There a
/// daemon dies with its host.
fn fault_line((kind, host, at): &(FaultKind, usize, Duration), begin: Duration) -> String {
    let at = (WARM_UP + *at).saturating_sub(begin);
    let host = host_name(*host);
    let what = match kind {
        FaultKind::Kill | FaultKind::LinkDown => format!("kill {host}"),
        FaultKind::Pause(length) => format!("stop {host} {}us", length.as_micros()),
    };
    format!("  \"{}us {what}\",\n", at.as_micros())
}

/// The run as the simulator is to repeat it.
fn scenario(run: &RecordedRun<'_>, config: &Config, components: &Components) -> String {
    let RecordedRun { args, handshakes, .. } = run;
    let span = handshakes.last().zip(handshakes.first());
    let span = span.map_or(Duration::ZERO, |(last, first)| last.opened - first.opened);
    let time = |time: Duration| humantime::format_duration(time).to_string().replace(' ', "");
    let whole = |time_: Duration| time(Duration::from_micros(time_.as_micros() as u64));
    let cost = |work| time(Duration::from_nanos(each(work)));
    let timers = &config.timers;
    let work = &components.work;
    let median = |us: f64| time(Duration::from_nanos((us.max(0.0) * 1e3) as u64));
    // What is left of the way of an answer without the way to the client and the verdict, which
    // the simulator adds.
    let way = [&components.access, &components.fabric].map(|way| way.quantile_us(0.5));
    let verdict = each(work.drops) as f64 / 1e3;
    let answer_us = components.answering.quantile_us(0.5) - way.iter().sum::<f64>() - verdict;
    let begin = handshakes.first().map_or(Duration::ZERO, |first| first.opened);
    let faults: String = run.faults.iter().map(|fault| fault_line(fault, begin)).collect();
    let faults = if faults.is_empty() { faults } else { format!("faults = [\n{faults}]\n\n") };
    let pacing = match config.pacing {
        Pacing::Rank => "rank",
        Pacing::Race => "race",
    };
    let mode = match config.mode {
        Mode::Auto => "auto",
        Mode::Claim => "claim",
        Mode::Hash => "hash",
    };
    format!(
        "# {command}\n\
         # What it has measured; the file names are looked for beside this file.\n\
         {faults}[run]\nduration = \"{duration}\"\nwarm_up = \"{warm_up}\"\n\n\
         [cluster]\nhosts = {hosts}\npacing = \"{pacing}\"\nmode = \"{mode}\"\nguard = \"{guard}\"\n\
         slot = \"{slot}\"\nslot_adapts = {slot_adapts}\n\
         settle = \"{settle}\"\nsettle_adapts = {settle_adapts}\nown = \"{own}\"\n\n\
         [network]\nmedium = \"switch\"\nrate = \"100Gbit\"\npropagation = \"0s\"\n\
         # Bytes that fit into the longest of these delays, too.\nbuffer = 1000000000\n\
         fabric = \"measured fabric.hist\"\nclaim_loss = \"{loss}%\"\n\n\
         [host]\ninterrupt = \"0\"\nqueueing = \"{queueing}\"\nwake = \"measured wake.hist\"\n\
         timer_error = \"measured timer.hist\"\nframe_cost = \"{frame}\"\npacket_cost = \"{packet}\"\n\
         verdict_cost = \"{drop}\"\nanswer_cost = \"{answer}\"\n\
         answer_rest = \"measured answer_rest.hist\"\nsend_cost = \"{send}\"\n\n\
         [service]\ntime = \"measured service.hist\"\n\n\
         [client]\naccess = \"measured access.hist\"\n\n\
         [load]\narrivals = \"trace arrivals.csv\"\n",
        command = args.command_line(),
        warm_up = time(WARM_UP),
        duration = whole(span + Duration::from_millis(1)),
        hosts = args.cluster.nodes,
        guard = name_of(&args.cluster.daemon.guard),
        slot = time(timers.slot),
        slot_adapts = timers.slot_adapts,
        settle = time(timers.settle),
        settle_adapts = timers.settle_adapts,
        own = time(timers.own),
        loss = args.cluster.claim_loss.percent(),
        queueing = components.queueing().into_iter().map(time).collect::<Vec<_>>().join(","),
        frame = cost(work.frames),
        packet = cost(work.packets),
        drop = cost(work.drops),
        answer = median(answer_us),
        send = cost(work.sent),
    )
}
