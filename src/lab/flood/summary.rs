//! What the flood left: as JSON, or as a page for people.

use std::fmt;

use serde::Serialize;

use super::{CLIENTS, Sample};
use crate::latency::Latency;

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    cpus: usize,
    /// Entries that connection tracking may have on each host.
    tracked_max: u64,
    figures: Vec<Figures>,
    command: String,
}

/// Of one contender.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    contender: &'static str,
    syns_sent_per_second: f64,
    syns_arrived_per_second: f64,
    syn_acks_to_spoofed_per_second: f64,
    claim_frames_per_second: f64,
    attempts: u64,
    succeeded_percent: f64,
    /// Without sending the SYN again.
    at_once_percent: f64,
    before: Latency,
    during: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_mib: Option<f64>,
    tracked: u64,
    /// SYNs that each kernel decided about by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    by_kernel_per_second: Option<f64>,
}

impl Summary {
    /// Condenses what was measured.
    pub fn new(command: String, samples: &[Sample], tracked_max: u64) -> Self {
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            tracked_max,
            figures: samples.iter().map(Figures::new).collect(),
            command,
        }
    }
}

impl Figures {
    fn new(sample: &Sample) -> Self {
        let percent = |count: u64| match sample.attempts {
            0 => 0.0,
            attempts => count as f64 / attempts as f64 * 100.0,
        };
        Self {
            contender: sample.contender.name(),
            syns_sent_per_second: sample.rates.sent.round(),
            syns_arrived_per_second: sample.rates.arrived.round(),
            syn_acks_to_spoofed_per_second: sample.rates.answered.round(),
            claim_frames_per_second: sample.rates.claim_frames.round(),
            attempts: sample.attempts,
            succeeded_percent: percent(sample.succeeded),
            at_once_percent: percent(sample.at_once),
            before: sample.quiet,
            during: sample.flooded,
            resident_mib: sample.resident.map(|bytes| bytes as f64 / f64::from(1 << 20)),
            tracked: sample.tracked,
            by_kernel_per_second: sample.by_kernel,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} CPUs, all but one for the flood and what the kernels of all hosts do with it; the \
             other for {CLIENTS} clients\nthat connect one time after the other, the services and \
             the daemons, so daemons in demand slow the clients themselves.\n\
             Sent and arrived: spoofed SYNs per second, and frames at the host that got the fewest. \
             At once:\nwithout sending the SYN again. Tracked: entries of the host with the most, of \
             {} at most.\n",
            self.cpus, self.tracked_max
        )?;
        writeln!(
            f,
            "{:27} {:>8} {:>8} {:>9} {:>8} | {:>8} {:>7} {:>7} {:>19} {:>19} | {:>7} {:>7}",
            "contender",
            "sent/s",
            "arrived",
            "SYN-ACK/s",
            "claims/s",
            "attempts",
            "success",
            "at once",
            "connect p50, p99 us",
            "(before the flood)",
            "tracked",
            "MiB"
        )?;
        for figures in &self.figures {
            let times = |latency: &Latency| {
                let show = |time: Option<f64>| {
                    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"))
                };
                format!("{} {:>8}", show(latency.connect_p50_us), show(latency.connect_p99_us))
            };
            writeln!(
                f,
                "{:27} {:>8} {:>8} {:>9} {:>8} | {:>8} {:>6.1}% {:>6.1}% {:>19} {:>19} | {:>7} {:>7}",
                figures.contender,
                figures.syns_sent_per_second,
                figures.syns_arrived_per_second,
                figures.syn_acks_to_spoofed_per_second,
                figures.claim_frames_per_second,
                figures.attempts,
                figures.succeeded_percent,
                figures.at_once_percent,
                times(&figures.during),
                times(&figures.before),
                figures.tracked,
                figures.resident_mib.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.1}")),
            )?;
        }
        writeln!(f)?;
        for figures in &self.figures {
            if let Some(rate) = figures.by_kernel_per_second {
                let name = figures.contender;
                writeln!(f, "{name}: each kernel decided about {rate} SYNs per second by itself")?;
            }
        }
        writeln!(f, "repeat with: {}", self.command)
    }
}
