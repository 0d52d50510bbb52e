//! What `verify` says: numbers, and what of them is not in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use pnet::util::MacAddr;
use serde::Serialize;

use super::VerifyArgs;
use super::ledger::{Distinction, Ledger, Sums};
use super::load::{Outcome, Tally};
use crate::io::link::Route;
use crate::latency::{Latency, human};

/// Duplicates that are no fault, as a share of the connections: now and then a claim is lost, and the
/// handshake guard takes care of the second answer. One in ten thousand is usual.
const DUPLICATES_TOLERATED: f64 = 0.01;

/// Everything `verify` found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    target: SocketAddr,
    interface: String,
    source: IpAddr,
    /// The router between client and cluster.
    router: Option<IpAddr>,
    /// Connections asked for, and those that were tried.
    asked: u64,
    tried: u64,
    answered: u64,
    refused: u64,
    timed_out: u64,
    unreachable: u64,
    reset: u64,
    /// Connections that failed for a reason of this host's own, and one such reason.
    other: u64,
    other_reason: Option<String>,
    wire: Wire,
    /// How hosts are told apart; without that there are no shares.
    shares_by: SharesBy,
    hosts: Vec<Share>,
    latency: Latency,
    seconds: f64,
    /// What is not in order; nothing if all is well.
    findings: Vec<Finding>,
}

/// What the frames say.
#[derive(Clone, Debug, Serialize)]
struct Wire {
    /// Connections of which a SYN was seen.
    attempts: u64,
    syns: u64,
    syn_retransmissions: u64,
    /// Connections whose first SYN nobody answered.
    misses: u64,
    /// Connections by the number of hosts that answered.
    answering_hosts: BTreeMap<usize, u64>,
    /// Connections that more than one host answered, and the answers beyond the first host's.
    duplicates: u64,
    second_answers: u64,
    /// SYN-ACKs that a host sent again.
    repeated_answers: u64,
    /// Resets from the virtual IP in connections under way, and in those that were over.
    resets_by_hosts: u64,
    resets_after_end: u64,
    resets_by_client: u64,
    /// Frames that the capture lost; the counts are exact only if it is 0.
    frames_lost: u64,
}

/// A host's part.
#[derive(Clone, Debug, Serialize)]
struct Share {
    mac: String,
    answered: u64,
    percent: f64,
    resets: u64,
}

/// How hosts are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum SharesBy {
    /// By the MACs of their frames.
    Mac,
    /// They are not: a router puts its own MAC on all frames.
    NothingBehindRouter,
    /// They are not: all have the same MAC, or frames have none.
    NothingWithOneMac,
}

/// Something that is not in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: What,
    text: String,
}

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Unreachable,
    TimedOut,
    Refused,
    Reset,
    Misses,
    Duplicates,
    Other,
    FramesLost,
    Unseen,
}

impl Report {
    /// Brings together what the sockets and the frames say.
    pub fn new(
        args: &VerifyArgs,
        route: &Route,
        tally: &Tally,
        ledger: &Ledger,
        frames_lost: u64,
    ) -> Self {
        let (shares_by, distinction) = match (route.gateway, ledger.distinction()) {
            (Some(_), _) => (SharesBy::NothingBehindRouter, Distinction::SequenceNumber),
            (None, Distinction::Mac) => (SharesBy::Mac, Distinction::Mac),
            (None, Distinction::SequenceNumber) => {
                (SharesBy::NothingWithOneMac, Distinction::SequenceNumber)
            }
        };
        let sums = ledger.sums(distinction);
        let count = |outcome: &Outcome| {
            tally.outcomes.iter().filter(|other| *other == outcome).count() as u64
        };
        let reasons: Vec<_> = tally
            .outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Other(reason) => Some(reason),
                Outcome::Answered
                | Outcome::Refused
                | Outcome::TimedOut
                | Outcome::Reset
                | Outcome::Unreachable => None,
            })
            .collect();
        let mut report = Self {
            target: args.target,
            interface: route.interface.clone(),
            source: route.source,
            router: route.gateway,
            asked: args.connections,
            tried: tally.outcomes.len() as u64,
            answered: count(&Outcome::Answered),
            refused: count(&Outcome::Refused),
            timed_out: count(&Outcome::TimedOut),
            unreachable: count(&Outcome::Unreachable),
            reset: count(&Outcome::Reset),
            other: reasons.len() as u64,
            other_reason: reasons.first().map(|reason| (*reason).clone()),
            hosts: shares(&sums),
            wire: Wire::new(&sums, frames_lost),
            shares_by,
            latency: Latency::of(tally.connects.iter().copied()),
            seconds: tally.elapsed.as_secs_f64(),
            findings: Vec::new(),
        };
        report.findings = report.judge();
        report
    }

    /// Whether there is nothing to complain of.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn judge(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |what, text: String| findings.push(Finding { what, text });
        let (vip, tried) = (self.target.ip(), self.tried);
        let doctor = format!("`clusterd doctor INTERFACE {vip}` on the hosts");
        if self.unreachable > 0 {
            let who = match self.router {
                None => "nobody tells the MAC of the address: no daemon runs, or its answers do not get here".to_owned(),
                Some(router) => format!(
                    "the router {router} reaches nobody: no daemon runs, or it refuses the ARP answer"
                ),
            };
            add(
                What::Unreachable,
                format!(
                    "{} of {tried} were unreachable: {who}; {doctor} says more",
                    self.unreachable
                ),
            );
        }
        if self.timed_out > 0 {
            let why = if self.answered + self.refused > 0 {
                "frames do not get to the host whose turn it was"
            } else {
                "frames to the virtual IP get to no host, a firewall drops them, or hosts have no \
                 such port among their `--ports`"
            };
            add(
                What::TimedOut,
                format!(
                    "{} of {tried} got no answer in time: {why}; {doctor} says more",
                    self.timed_out
                ),
            );
        }
        if self.refused > 0 {
            let port = self.target.port();
            let why = match self.answered {
                0 => format!("no host has a listener on port {port}"),
                _ => format!("hosts refuse port {port} that others serve"),
            };
            add(
                What::Refused,
                format!(
                    "{} of {tried} were refused: {why}; see `clusterd status` and `ss -tln sport = {port}` on the hosts",
                    self.refused
                ),
            );
        }
        let resets = self.reset.max(self.wire.resets_by_hosts);
        if resets > 0 {
            add(
                What::Reset,
                format!(
                    "{resets} resets from the virtual IP on connections that had been answered: a host without the guard's rules answers too, or the service hangs up like that; see `clusterd status` on each host"
                ),
            );
        }
        let unanswered = self.unreachable + self.timed_out;
        let late = self.wire.misses.saturating_sub(unanswered);
        if late > 0 {
            add(
                What::Misses,
                format!(
                    "{late} of {tried} were answered only when the client had asked again, a second later: by hash a dead host's share waits like that, else frames get lost; see in `clusterd status` on the hosts which peers are live, and why they decide by hash"
                ),
            );
        }
        let duplicates = self.wire.duplicates;
        if duplicates as f64 > tried as f64 * DUPLICATES_TOLERATED {
            add(
                What::Duplicates,
                format!(
                    "{duplicates} of {tried} were answered by more than one host: hosts do not hear each other's claims, or not all have the same options; {doctor} says more"
                ),
            );
        }
        if let Some(reason) = &self.other_reason {
            add(What::Other, format!("{} of {tried} failed on this host: {reason}", self.other));
        }
        if self.wire.frames_lost > 0 {
            add(
                What::FramesLost,
                format!(
                    "the capture lost {} frames, so the counts are too low; try a smaller --concurrency",
                    self.wire.frames_lost
                ),
            );
        }
        let opened = self.answered + self.refused + self.timed_out;
        if self.wire.attempts < opened {
            add(
                What::Unseen,
                format!(
                    "only {} of {opened} were seen on {}: packets go another way (several routes, IPsec), so nothing is known of the others; --interface names the way",
                    self.wire.attempts, self.interface
                ),
            );
        }
        findings
    }
}

impl Wire {
    fn new(sums: &Sums, frames_lost: u64) -> Self {
        let several = sums.answering_hosts.iter().filter(|&(&hosts, _)| hosts > 1);
        Self {
            attempts: sums.answering_hosts.values().sum(),
            syns: sums.syns,
            syn_retransmissions: sums.syn_retransmissions,
            misses: sums.misses,
            answering_hosts: sums.answering_hosts.clone(),
            duplicates: several.map(|(_, attempts)| attempts).sum(),
            second_answers: sums.second_answers,
            repeated_answers: sums.repeated_answers,
            resets_by_hosts: sums.resets.values().sum(),
            resets_after_end: sums.resets_after_end,
            resets_by_client: sums.resets_by_client,
            frames_lost,
        }
    }
}

fn shares(sums: &Sums) -> Vec<Share> {
    let all: u64 = sums.shares.values().sum();
    // Also a host that never answers first and only resets.
    let hosts: BTreeSet<_> = sums.shares.keys().chain(sums.resets.keys().flatten()).collect();
    let share = |mac: &MacAddr| {
        let answered = sums.shares.get(mac).copied().unwrap_or(0);
        Share {
            mac: format!("{mac}"),
            answered,
            percent: answered as f64 * 100.0 / all.max(1) as f64,
            resets: sums.resets.get(&Some(*mac)).copied().unwrap_or(0),
        }
    };
    hosts.into_iter().map(share).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, interface, tried, seconds, .. } = self;
        let count = |number, what: &str| {
            if number == 0 { String::new() } else { format!(", {number} {what}") }
        };
        writeln!(
            f,
            "{tried} connections to {target} by {interface} in {seconds:.1} s: {} answered{}{}{}{}{}",
            self.answered,
            count(self.refused, "refused"),
            count(self.timed_out, "timed out"),
            count(self.unreachable, "unreachable"),
            count(self.reset, "reset"),
            count(self.other, "failed on this host")
        )?;
        if self.tried < self.asked {
            writeln!(
                f,
                "given up early: {} had been asked for, but there was never an answer",
                self.asked
            )?;
        }
        self.fmt_hosts(f)?;
        self.fmt_wire(f)?;
        match self.findings.is_empty() {
            true => writeln!(f, "\nclean"),
            false => {
                writeln!(f, "\nnot in order:")?;
                self.findings.iter().try_for_each(|finding| writeln!(f, "- {}", finding.text))
            }
        }
    }
}

impl Report {
    fn fmt_hosts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.shares_by, self.router) {
            (SharesBy::Mac, _) if self.hosts.is_empty() => writeln!(f),
            (SharesBy::Mac, _) => {
                writeln!(f, "\nhost                answered   share  resets")?;
                for Share { mac, answered, percent, resets } in &self.hosts {
                    writeln!(f, "{mac:17} {answered:>10} {percent:>6.1}% {resets:>7}")?;
                }
                writeln!(f)
            }
            (SharesBy::NothingBehindRouter, Some(router)) => writeln!(
                f,
                "\nhosts       not told apart: all frames come from the router {router}; run this on \
                 their segment to see their shares"
            ),
            (SharesBy::NothingBehindRouter | SharesBy::NothingWithOneMac, _) => {
                writeln!(f, "\nhosts       not told apart: all frames come from one MAC")
            }
        }
    }

    fn fmt_wire(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wire { duplicates, second_answers, misses, syn_retransmissions, .. } = self.wire;
        let Latency { connect_p50_us, connect_p90_us, connect_p99_us, connect_max_us, .. } =
            self.latency;
        let times = connect_p50_us.zip(connect_p90_us).zip(connect_p99_us.zip(connect_max_us));
        if let Some(((p50, p90), (p99, max))) = times {
            writeln!(
                f,
                "connect     p50 {}  p90 {}  p99 {}  max {}",
                human(p50),
                human(p90),
                human(p99),
                human(max)
            )?;
        }
        writeln!(
            f,
            "duplicates  {duplicates} connections answered by several hosts, with {second_answers} second answers"
        )?;
        writeln!(
            f,
            "misses      {misses} first SYNs without an answer; {syn_retransmissions} SYNs sent again"
        )?;
        writeln!(
            f,
            "resets      {} by hosts, {} by this client",
            self.wire.resets_by_hosts, self.wire.resets_by_client
        )
    }
}
