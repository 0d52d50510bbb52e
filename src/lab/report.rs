//! The report of a run: one JSON object, or a page for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::RunArgs;
use super::client::{Attempt, Failure};
use super::faults::{Fault, FaultKind};
use super::hosts::name_of;
use super::oracle::WireReport;
use super::topology::{Medium, host_name};
use crate::io::cluster_mac::MacMode;
use crate::latency::{Latency, human};

/// An attempt that starts this long after a fault, or earlier, may have met it.
const FAULT_SHADOW: Duration = Duration::from_secs(2);
/// A connect slower than this had to wait for something; a retransmitted SYN takes 1 s.
const SLOW: Duration = Duration::from_millis(100);

/// What a run produced.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The attempts that have ended.
    pub attempts: Vec<Attempt>,
    /// Attempts each host sent a SYN-ACK for.
    pub syn_acks_by_host: Vec<u64>,
    /// What the wire says.
    pub wire: WireReport,
    /// The faults that were asked for.
    pub faults: Vec<FaultOutcome>,
    /// Processes that ended on their own.
    pub unexpected_exits: Vec<String>,
    /// An example of [`Failure::Other`].
    pub strange_failure: Option<String>,
    /// From the start of the load to its end.
    pub took: Duration,
    /// Whether a signal ended the run.
    pub interrupted: bool,
}

/// A fault and when it really happened.
#[derive(Clone, Debug)]
pub struct FaultOutcome {
    /// What was asked for.
    pub fault: Fault,
    /// When it happened; `None` if the load ended before.
    pub at: Option<Duration>,
}

/// The report, in the words and units of its JSON form.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    nodes: usize,
    topology: Medium,
    mac: MacMode,
    pacing: String,
    guard: String,
    claim_loss_percent: f64,
    concurrency: usize,
    connections: u64,
    answered: u64,
    failed: u64,
    interrupted: bool,
    duration_ms: f64,
    connections_per_second: f64,
    #[serde(flatten)]
    latency: Latency,
    slow_connects: u64,
    failures: BTreeMap<Failure, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_failure_example: Option<String>,
    hosts: Vec<HostReport>,
    claims_per_connection: f64,
    claim_frames_per_connection: f64,
    claim_bytes_per_connection: f64,
    wire: WireReport,
    faults: Vec<FaultReport>,
    unexpected_exits: Vec<String>,
    command: String,
}

#[derive(Clone, Debug, Serialize)]
struct HostReport {
    name: String,
    answered: u64,
    answered_percent: f64,
    syn_acks: u64,
    resets: u64,
}

#[derive(Clone, Debug, Serialize)]
struct FaultReport {
    host: String,
    kind: &'static str,
    when: String,
    at_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_ms: Option<f64>,
    /// Attempts under way at the fault or started within the 2 s after it.
    attempts_near: u64,
    failed_near: u64,
    slow_connects_near: u64,
    connect_max_near_us: Option<f64>,
}

impl Report {
    /// Judges an outcome.
    pub fn new(args: &RunArgs, outcome: &Outcome) -> Self {
        let cluster = &args.cluster;
        let attempts = &outcome.attempts;
        let answered = attempts.iter().filter(|attempt| attempt.outcome.is_ok()).count() as u64;
        let mut failures: BTreeMap<_, _> = Failure::ALL.iter().map(|&kind| (kind, 0)).collect();
        let mut answered_by_host = vec![0; cluster.nodes];
        for attempt in attempts {
            match attempt.outcome {
                Ok(host) => answered_by_host[host] += 1,
                Err(failure) => *failures.entry(failure).or_default() += 1,
            }
        }
        let host_report = |(index, &by_host): (usize, &u64)| HostReport {
            name: host_name(index),
            answered: by_host,
            answered_percent: percent(by_host, answered),
            syn_acks: outcome.syn_acks_by_host[index],
            resets: outcome.wire.resets_by_host.get(&host_name(index)).copied().unwrap_or(0),
        };
        let mut faults: Vec<_> = outcome.faults.iter().collect();
        // In the order in which they happened; those that did not come last.
        faults.sort_by_key(|fault| (fault.at.is_none(), fault.at));
        let claims = &outcome.wire.claims;
        let connections = attempts.len() as u64;
        Self {
            nodes: cluster.nodes,
            topology: cluster.topology,
            mac: cluster.daemon.mac,
            pacing: name_of(&cluster.daemon.pacing),
            guard: name_of(&cluster.daemon.guard),
            claim_loss_percent: cluster.claim_loss.percent(),
            concurrency: args.concurrency,
            connections,
            answered,
            failed: connections - answered,
            interrupted: outcome.interrupted,
            duration_ms: milliseconds(outcome.took),
            connections_per_second: (connections as f64 / outcome.took.as_secs_f64()).round(),
            latency: Latency::of(attempts.iter().filter_map(|attempt| attempt.connect)),
            slow_connects: attempts.iter().filter(|attempt| is_slow(attempt)).count() as u64,
            failures,
            other_failure_example: outcome.strange_failure.clone(),
            hosts: answered_by_host.iter().enumerate().map(host_report).collect(),
            claims_per_connection: ratio(claims.claim_entries + claims.own_entries, connections),
            claim_frames_per_connection: ratio(claims.frames, connections),
            claim_bytes_per_connection: ratio(claims.bytes, connections),
            wire: outcome.wire.clone(),
            faults: outcome.faults.iter().map(|fault| fault_report(fault, attempts)).collect(),
            unexpected_exits: outcome.unexpected_exits.clone(),
            command: args.command_line(),
        }
    }

    /// Whether every connection was answered and every process lived.
    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.unexpected_exits.is_empty()
    }
}

fn fault_report(outcome: &FaultOutcome, attempts: &[Attempt]) -> FaultReport {
    let Fault { host, kind, when } = &outcome.fault;
    let near = |attempt: &&Attempt| {
        outcome.at.is_some_and(|at| attempt.ended >= at && attempt.started <= at + FAULT_SHADOW)
    };
    let near: Vec<_> = attempts.iter().filter(near).collect();
    let (kind, pause) = match kind {
        FaultKind::Kill => ("kill", None),
        FaultKind::LinkDown => ("link_down", None),
        FaultKind::Pause(length) => ("pause", Some(*length)),
    };
    FaultReport {
        host: host_name(*host),
        kind,
        when: when.to_string(),
        at_ms: outcome.at.map(milliseconds),
        pause_ms: pause.map(milliseconds),
        attempts_near: near.len() as u64,
        failed_near: near.iter().filter(|attempt| attempt.outcome.is_err()).count() as u64,
        slow_connects_near: near.iter().filter(|attempt| is_slow(attempt)).count() as u64,
        connect_max_near_us: Latency::of(near.iter().filter_map(|attempt| attempt.connect))
            .connect_max_us,
    }
}

fn is_slow(attempt: &Attempt) -> bool {
    attempt.connect.is_some_and(|connect| connect >= SLOW)
}

fn percent(part: u64, whole: u64) -> f64 {
    ratio(part * 100, whole)
}

/// A quotient to three places, and 0 of nothing.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1e3).round() / 1e3 }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "INTERRUPTED: what follows is the part of the run that took place")?;
        }
        writeln!(
            f,
            "{} connections in {:.1} s ({:.0} per second), {} failed",
            self.connections,
            self.duration_ms / 1e3,
            self.connections_per_second,
            self.failed
        )?;
        for (kind, count) in self.failures.iter().filter(|&(_, &count)| count > 0) {
            writeln!(f, "  {count:>8} {}", words(*kind))?;
        }
        if let Some(example) = &self.other_failure_example {
            writeln!(f, "  for example: {example}")?;
        }
        for name in &self.unexpected_exits {
            writeln!(f, "  {name} ended on its own")?;
        }
        self.fmt_hosts(f)?;
        self.fmt_latency(f)?;
        self.fmt_wire(f)?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))?;
        writeln!(f, "\nrepeat with: {}", self.command)
    }
}

impl Report {
    fn fmt_hosts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nhost   answered   share   SYN-ACKs  resets")?;
        for host in &self.hosts {
            let HostReport { name, answered, answered_percent, syn_acks, resets } = host;
            writeln!(
                f,
                "{name:4} {answered:>10} {answered_percent:>6.1}% {syn_acks:>10} {resets:>7}"
            )?;
        }
        writeln!(f)
    }

    fn fmt_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency { connect_p50_us, connect_p99_us, connect_p999_us, connect_max_us, .. } =
            self.latency;
        let Some(((p50, p99), (p999, max))) =
            connect_p50_us.zip(connect_p99_us).zip(connect_p999_us.zip(connect_max_us))
        else {
            return writeln!(f, "connect    never succeeded");
        };
        writeln!(
            f,
            "connect    p50 {}  p99 {}  p99.9 {}  max {}  ({} over {} ms)",
            human(p50),
            human(p99),
            human(p999),
            human(max),
            self.slow_connects,
            SLOW.as_millis()
        )
    }

    fn fmt_wire(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = &self.wire;
        let answers = |(&hosts, count): (&u32, &u64)| {
            format!("{hosts} host{}: {count}", if hosts == 1 { "" } else { "s" })
        };
        let hosts: Vec<_> = wire.syn_ack_hosts.iter().map(answers).collect();
        writeln!(
            f,
            "SYN-ACKs   per attempt from {}; second SYN-ACKs {} ({:.4}% of attempts)",
            hosts.join(", "),
            wire.second_syn_acks,
            wire.second_syn_ack_percent
        )?;
        writeln!(
            f,
            "SYNs       {} for {} attempts, {} retransmitted; resets by the client {}",
            wire.syns, wire.attempts, wire.syn_retransmissions, wire.resets_by_client
        )?;
        writeln!(
            f,
            "claims     {:.3} per connection, in {:.3} frames of together {:.0} bytes",
            self.claims_per_connection,
            self.claim_frames_per_connection,
            self.claim_bytes_per_connection
        )?;
        if wire.claims.undecodable > 0 {
            writeln!(f, "           {} claim frames did not decode", wire.claims.undecodable)?;
        }
        for (mac, count) in wire.resets_by_host.iter().filter(|(name, _)| name.contains(':')) {
            writeln!(f, "stranger   {mac} sent {count} resets from the VIP")?;
        }
        if wire.frames_lost > 0 {
            writeln!(
                f,
                "CAPTURE    lost {} of {} frames: the counts above are too low",
                wire.frames_lost, wire.frames
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, kind, when, .. } = self;
        let Some(at) = self.at_ms else {
            return write!(
                f,
                "fault      {kind} {host}@{when} did not happen: the load ended before"
            );
        };
        write!(f, "fault      {kind} {host} at {:.3} s", at / 1e3)?;
        if let Some(pause) = self.pause_ms {
            write!(f, " for {:.3} s", pause / 1e3)?;
        }
        write!(
            f,
            ": of {} connections under way or started within {} s, {} failed and {} took over {} ms",
            self.attempts_near,
            FAULT_SHADOW.as_secs(),
            self.failed_near,
            self.slow_connects_near,
            SLOW.as_millis()
        )?;
        match self.connect_max_near_us {
            Some(max) => write!(f, " (the slowest {})", human(max)),
            None => Ok(()),
        }
    }
}

fn words(failure: Failure) -> &'static str {
    match failure {
        Failure::ConnectRefused => "refused: reset instead of a SYN-ACK",
        Failure::ConnectTimeout => "not connected within 8 s",
        Failure::Reset => "reset after the handshake",
        Failure::ClosedEarly => "closed by the host without an answer",
        Failure::NoAnswer => "connected, but no answer within 10 s",
        Failure::Other => "failed otherwise",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::faults::When;

    #[test]
    fn a_fault_is_charged_with_what_was_under_way_or_came_soon_after() {
        let second = Duration::from_secs(1);
        let attempt = |started: u32, took: Duration, outcome| Attempt {
            started: second * started,
            ended: second * started + took,
            connect: Some(took),
            outcome,
        };
        let attempts = [
            attempt(0, second, Err(Failure::Reset)), // over before the fault
            attempt(4, second * 2, Ok(0)),           // under way
            attempt(6, second / 100, Err(Failure::Reset)),
            attempt(8, second, Err(Failure::Reset)), // too late
        ];
        let fault = Fault { host: 1, kind: FaultKind::Kill, when: When::Elapsed(second * 5) };
        let met =
            fault_report(&FaultOutcome { fault: fault.clone(), at: Some(second * 5) }, &attempts);
        assert_eq!((met.attempts_near, met.failed_near, met.slow_connects_near), (2, 1, 1));
        assert_eq!((met.host.as_str(), met.connect_max_near_us), ("h2", Some(2e6)));
        let missed = fault_report(&FaultOutcome { fault, at: None }, &attempts);
        assert_eq!((missed.attempts_near, missed.at_ms), (0, None));
    }

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        assert_eq!([42.4, 4_250.0, 7_150_000.0].map(human), ["42 us", "4.25 ms", "7.15 s"]);
    }

    #[test]
    fn nothing_of_nothing_is_zero_percent() {
        assert_eq!((percent(1, 3), percent(0, 0)), (33.333, 0.0));
    }
}
