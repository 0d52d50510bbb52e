//! `clusterd lab flood`: what is left for clients while somebody floods the
//! virtual IP with SYNs from spoofed addresses.
//!
//! All contenders get the same flood, one after the other, while clients connect
//! to each. The kernels of all hosts take a frame in on the CPU of the sender: where a spoofed
//! SYN costs them more, the flood is slower, unless `--rate` sets it.

mod sender;
mod summary;

use std::fs;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use super::bench::contender::{Cluster, Contender};
use super::client::{Attempt, Load, LoadEvent, LoadPlan};
use super::netns::Namespace;
use super::process::{self, Process};
use super::topology::{CLIENT_ADDRESSES_MAX, Family, HOSTS_MAX, Medium, VIP, feed};
use crate::io::kernel_buckets::KernelBuckets;
use crate::io::nft_sets::Sets;
use crate::io::rules::Guard;
use crate::latency::Latency;
use sender::{Flood, SPOOFED};
use summary::Summary;

/// Clients that connect one time after the other, each on its own.
const CLIENTS: usize = 2;
/// How long the flood runs before the first of them: the hosts' tables fill up.
const RUN_UP: Duration = Duration::from_secs(2);
/// A connection that took longer had to send its SYN again.
const AT_ONCE: Duration = Duration::from_millis(950);
/// The client's table of counters.
const COUNTERS: &str = "flood";

/// Options of `lab flood`.
#[derive(Clone, Debug, Args)]
pub struct FloodArgs {
    /// How long clients connect to each contender during the flood, in seconds
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Number of hosts
    #[arg(long, default_value_t = 3, value_parser = super::parse_within::<1, HOSTS_MAX>)]
    nodes: usize,
    /// Spoofed SYNs per second [default: as many as one CPU can make]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
}

impl FloodArgs {
    /// The command line that repeats the run, defaults spelled out.
    fn command_line(&self) -> String {
        let Self { seconds, nodes, rate, .. } = self;
        let rate = rate.map_or_else(String::new, |rate| format!(" --rate {rate}"));
        format!("clusterd lab flood --nodes {nodes} --seconds {seconds}{rate}")
    }
}

/// Who meets the flood, in the order of the report.
const CONTENDERS: [Contender; 4] = [
    Contender::XtCluster,
    Contender::ByClaims(Guard::Rst),
    Contender::Clusterd(Guard::Rst),
    Contender::Clusterd(Guard::Strict),
];

/// What was seen of one contender.
#[derive(Clone, Debug)]
struct Sample {
    contender: Contender,
    /// Connect times before the flood.
    quiet: Latency,
    /// Connect times of those that succeeded during the flood.
    flooded: Latency,
    attempts: u64,
    /// Of the attempts: answered at all, and without sending the SYN again.
    succeeded: u64,
    at_once: u64,
    rates: Rates,
    /// Resident memory of the largest daemon during the flood, in bytes.
    resident: Option<u64>,
    /// Entries of connection tracking on the host with the most of them.
    tracked: u64,
    /// SYNs per second, of own and foreign buckets, that the kernel of the host
    /// with the fewest has decided about by itself, where it may.
    by_kernel: Option<f64>,
}

/// Per second, during the flood.
#[derive(Clone, Copy, Debug)]
struct Rates {
    sent: f64,
    /// Frames that reached the host which got the fewest.
    arrived: f64,
    /// SYN-ACKs to spoofed addresses.
    answered: f64,
    claim_frames: f64,
}

/// Runs the benchmark. Must be called on the main thread, before there are others.
pub fn run(args: &FloodArgs) -> Result<ExitCode> {
    // Nothing outlives this process: namespaces and children end with it.
    process::on_interrupt(|| std::process::exit(130))?;
    process::raise_descriptor_limit();
    let mut samples = Vec::new();
    for contender in CONTENDERS {
        show_progress(contender.name());
        let sample = measure(contender, args);
        samples.push(sample.with_context(|| format!("flood {}", contender.name()))?);
    }
    show_progress("");
    let tracked_max = read_number("/proc/sys/net/netfilter/nf_conntrack_max")?;
    let summary = Summary::new(args.command_line(), &samples, tracked_max);
    if args.json {
        println!("{}", serde_json::to_string(&summary).context("write the figures as JSON")?);
    } else {
        print!("{summary}");
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(contender: Contender, args: &FloodArgs) -> Result<Sample> {
    let cluster = Cluster::raise(contender, args.nodes, CLIENT_ADDRESSES_MAX)?;
    prepare(&cluster)?;
    let quiet = connect_for(&cluster, Duration::from_secs(1))?;
    let decided = || match contender {
        Contender::Clusterd(_) => each_host(&cluster, || {
            Ok(KernelBuckets::open(&std::net::IpAddr::from(VIP).into())?.decided()?)
        })
        .map(Some),
        _ => Ok(None),
    };
    // One CPU is left to clients, services and daemons.
    let senders = thread::available_parallelism().map_or(1, |cpus| cpus.get() - 1).max(1);
    let flood = Flood::start(&cluster.topology.client, senders, args.rate)?;
    thread::sleep(RUN_UP);
    let (begin, before) = (Instant::now(), Totals::read(&cluster, &flood)?);
    let decided_before = decided()?;
    let attempts = connect_for(&cluster, Duration::from_secs(args.seconds))?;
    let (seconds, after) = (begin.elapsed().as_secs_f64(), Totals::read(&cluster, &flood)?);
    let by_kernel = decided()?.zip(decided_before);
    let by_kernel = by_kernel.map(|(now, before)| slowest(&now, &before, seconds).round());
    let resident = cluster.deciders.iter().map(Process::resident_bytes);
    let resident = resident.collect::<Result<Vec<_>>>()?.into_iter().max();
    let tracked =
        each_host(&cluster, || read_number("/proc/sys/net/netfilter/nf_conntrack_count"))?;
    flood.stop()?;
    let connects = attempts.iter().filter(|attempt| attempt.outcome.is_ok());
    let connects: Vec<_> = connects.filter_map(|attempt| attempt.connect).collect();
    Ok(Sample {
        contender,
        quiet: Latency::of(quiet.iter().filter_map(|attempt| attempt.connect)),
        attempts: attempts.len() as u64,
        succeeded: connects.len() as u64,
        at_once: connects.iter().filter(|&&connect| connect < AT_ONCE).count() as u64,
        flooded: Latency::of(connects.into_iter()),
        rates: after.since(&before, seconds),
        resident,
        tracked: tracked.into_iter().max().unwrap_or_default(),
        by_kernel,
    })
}

/// Gives the hosts a way to answer spoofed addresses, which ends at the client,
/// and counts there.
fn prepare(cluster: &Cluster) -> Result<()> {
    let topology = &cluster.topology;
    let (network, bits) = SPOOFED;
    let gateway = Family::V4
        .client_addresses(Medium::Switch, 1)
        .next()
        .context("the client has an address")?;
    for host in &topology.hosts {
        topology.ip(host, &format!("route add {network}/{bits} via {gateway}\n"))?;
    }
    let rules = format!(
        "table inet {COUNTERS} {{\n\
         counter answers {{ }}\n\
         counter claims {{ }}\n\
         chain arriving {{\n\
         type filter hook prerouting priority raw;\n\
         ip daddr {network}/{bits} counter name answers drop\n\
         ip protocol {} counter name claims drop\n\
         }}\n}}\n",
        clusterd::wire::IP_PROTOCOL
    );
    feed(&topology.client, "nft", &["-f", "-"], &rules)
}

/// Has clients connect for so long, and waits for the last of them.
fn connect_for(cluster: &Cluster, time: Duration) -> Result<Vec<Attempt>> {
    let (sender, events) = mpsc::channel();
    let plan = LoadPlan {
        connections: 1_000_000,
        concurrency: CLIENTS,
        starts: Vec::new(),
        sources: cluster.sources.clone(),
        milestones: Vec::new(),
    };
    let load = Load::start(plan, &cluster.topology.client, move |event| {
        // The receiver stays until the load is done.
        sender.send(event).ok();
    })?;
    thread::sleep(time);
    load.stop();
    while !matches!(events.recv(), Ok(LoadEvent::Done) | Err(_)) {}
    Ok(load.attempts())
}

/// Counts since the cluster was raised.
struct Totals {
    sent: u64,
    arrived: Vec<u64>,
    answered: u64,
    claim_frames: u64,
}

impl Totals {
    fn read(cluster: &Cluster, flood: &Flood) -> Result<Self> {
        let (answered, claim_frames) = cluster.topology.client.within(|| {
            let mut counters = Sets::open(COUNTERS.to_owned())?;
            Ok((counters.packets("answers")?, counters.packets("claims")?))
        })?;
        let arrived = each_host(cluster, received_frames)?;
        Ok(Self { sent: flood.sent(), arrived, answered, claim_frames })
    }

    fn since(&self, before: &Self, seconds: f64) -> Rates {
        let rate = |now: u64, then: u64| (now - then) as f64 / seconds;
        Rates {
            sent: rate(self.sent, before.sent),
            arrived: slowest(&self.arrived, &before.arrived, seconds),
            answered: rate(self.answered, before.answered),
            claim_frames: rate(self.claim_frames, before.claim_frames),
        }
    }
}

/// The growth per second of the host where it was least.
fn slowest(now: &[u64], before: &[u64], seconds: f64) -> f64 {
    let growth = now.iter().zip(before).map(|(now, before)| now - before);
    growth.min().unwrap_or_default() as f64 / seconds
}

fn each_host(cluster: &Cluster, read: impl Fn() -> Result<u64> + Sync) -> Result<Vec<u64>> {
    let hosts = cluster.topology.hosts.iter();
    hosts.map(|host: &Namespace| host.within(&read)).collect()
}

/// Frames that the interface of the host has received.
fn received_frames() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").context("read net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    word.and_then(|word| word.parse().ok()).context("net/dev has no count for eth0")
}

fn read_number(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    text.trim().parse().with_context(|| format!("{path} has no number"))
}

fn show_progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        eprint!("\r{text}\x1b[K");
        drop(stderr.flush());
    }
}
