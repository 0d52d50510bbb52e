//! `clusterd lab bench`: what the cluster costs, next to what else there is.
//!
//! Times from a machine that also does other things mean little by themselves,
//! so all contenders are raised side by side and measured in turn, round after
//! round; ratios are taken within a round, and medians over the rounds. The
//! capture, which would slow everything down, runs in a round of its own.

pub mod contender;
pub mod modes;
mod summary;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::capture::Listener;
use super::client::{Load, LoadEvent, LoadPlan};
use super::oracle::Oracle;
use super::process;
use super::rush::rush;
use super::topology::{CLIENT_ADDRESSES_MAX, HOSTS_MAX, VIP};
use crate::latency::Latency;
use contender::{Cluster, Contender};
use summary::Summary;

/// Connections attempted at a time by the workload with many.
const CONCURRENCY: usize = 64;
/// One connection at a time for so many with many at a time.
const SINGLES_SHARE: u64 = 5;
/// Parts of the bytes fetched in a round.
const TRANSFERS: u64 = 5;
/// Time for daemons to come to rest before their memory is read.
const REST: Duration = Duration::from_millis(500);

/// Options of `lab bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// How often each contender is measured
    #[arg(long, default_value_t = 5, value_parser = super::parse_within::<1, 100>)]
    rounds: usize,
    /// Connections per round with 64 at a time; a fifth of it one at a time
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..))]
    connections: u64,
    /// Numbers of hosts
    #[arg(long, value_delimiter = ',', default_value = "1,3,5", value_parser = super::parse_within::<1, HOSTS_MAX>)]
    hosts: Vec<usize>,
    /// Number of addresses the client has; xt_cluster hashes nothing else
    #[arg(long, value_name = "N", default_value_t = CLIENT_ADDRESSES_MAX, value_parser = super::parse_within::<1, CLIENT_ADDRESSES_MAX>)]
    client_addresses: usize,
    /// Megabytes fetched per round, in five connections of which the fastest counts
    #[arg(long, value_name = "MB", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    transfer: u64,
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
}

impl BenchArgs {
    /// The command line that repeats the run, defaults spelled out.
    fn command_line(&self) -> String {
        let Self { rounds, connections, client_addresses, transfer, .. } = self;
        let hosts: Vec<_> = self.hosts.iter().map(usize::to_string).collect();
        format!(
            "clusterd lab bench --rounds {rounds} --connections {connections} --hosts {} \
             --client-addresses {client_addresses} --transfer {transfer}",
            hosts.join(",")
        )
    }
}

/// What one contender did in one round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Connect times, one at a time and many at a time.
    one: Latency,
    many: Latency,
    /// Connections per second, many at a time.
    rate: f64,
    /// CPU time of all deciders per connection, many at a time; none without a decider.
    cpu: Option<Duration>,
    /// Bytes per second over one connection.
    throughput: f64,
    failed: u64,
}

/// What the capture says about one contender.
#[derive(Clone, Debug, Serialize)]
struct Counts {
    claims_per_connection: f64,
    second_syn_ack_percent: f64,
    syn_retransmissions: u64,
    /// Share of the connections answered, for each host.
    share_percent: Vec<f64>,
    /// Frames the capture lost; the counts are exact only if it is 0.
    frames_lost: u64,
}

/// All that was measured with one number of hosts.
struct Series {
    hosts: usize,
    /// By contender, then by round.
    samples: Vec<Vec<Sample>>,
    /// By contender; only daemons make claims.
    counts: Vec<Option<Counts>>,
    /// Resident memory of the largest idle daemon, in bytes, by contender.
    resident: Vec<Option<u64>>,
}

/// Runs the benchmark. Must be called on the main thread, before there are others.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    // Nothing outlives this process: namespaces and children end with it.
    process::on_interrupt(|| std::process::exit(130))?;
    process::raise_descriptor_limit();
    let load_before = load_average()?;
    let mut series = Vec::new();
    for &hosts in &args.hosts {
        series.push(measure_with(hosts, args)?);
    }
    let summary = Summary::new(args, &series, [load_before, load_average()?]);
    if args.json {
        println!("{}", serde_json::to_string(&summary).context("write the figures as JSON")?);
    } else {
        print!("{summary}");
    }
    Ok(if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure_with(hosts: usize, args: &BenchArgs) -> Result<Series> {
    show_progress(&format!("{hosts} hosts: raising the clusters"));
    let mut clusters = Vec::new();
    for contender in Contender::ALL {
        clusters.push(Cluster::raise(contender, hosts, args.client_addresses)?);
    }
    thread::sleep(REST);
    let resident = clusters.iter().map(resident).collect::<Result<_>>()?;
    let mut samples = vec![Vec::new(); clusters.len()];
    for round in 0..args.rounds {
        show_progress(&format!("{hosts} hosts: round {} of {}", round + 1, args.rounds));
        let throughputs = throughputs(&clusters, args)?;
        for turn in 0..clusters.len() {
            // Nobody always comes first.
            let index = (turn + round) % clusters.len();
            let sample = sample(&clusters[index], throughputs[index], args)
                .with_context(|| format!("measure {}", clusters[index].contender.name()))?;
            samples[index].push(sample);
        }
    }
    show_progress(&format!("{hosts} hosts: counting frames"));
    let counts = clusters
        .iter()
        .map(|cluster| match cluster.contender {
            Contender::Clusterd(_) => count(cluster, args).map(Some),
            _ => Ok(None),
        })
        .collect::<Result<_>>()?;
    show_progress("");
    Ok(Series { hosts, samples, counts, resident })
}

/// Bytes per second over one connection, by contender: the best of several short
/// transfers made in turn, since whatever else the machine does only slows them.
fn throughputs(clusters: &[Cluster], args: &BenchArgs) -> Result<Vec<f64>> {
    let bytes = args.transfer * 1_000_000 / TRANSFERS;
    let mut best = vec![0.0f64; clusters.len()];
    for _ in 0..TRANSFERS {
        for (best, cluster) in best.iter_mut().zip(clusters) {
            *best = best.max(bytes as f64 / cluster.fetch(bytes)?.as_secs_f64());
        }
    }
    Ok(best)
}

fn sample(cluster: &Cluster, throughput: f64, args: &BenchArgs) -> Result<Sample> {
    let singles = args.connections / SINGLES_SHARE;
    let one = one_at_a_time(cluster, singles)?;
    let cpu_before = cluster.cpu_time()?;
    let many = rush(&cluster.topology.client, &cluster.sources, args.connections, CONCURRENCY)?;
    let cpu = cluster.cpu_time()?.saturating_sub(cpu_before) / args.connections as u32;
    Ok(Sample {
        failed: singles - one.len() as u64 + many.failed,
        one: Latency::of(one.into_iter()),
        many: Latency::of(many.connects.into_iter()),
        rate: many.rate,
        cpu: (!cluster.deciders.is_empty()).then_some(cpu),
        throughput,
    })
}

/// Connects so often, each time when the last connection is over; the times of those that succeed.
fn one_at_a_time(cluster: &Cluster, connections: u64) -> Result<Vec<Duration>> {
    let (sender, events) = mpsc::channel();
    let plan = LoadPlan {
        connections,
        concurrency: 1,
        starts: Vec::new(),
        sources: cluster.sources.clone(),
        milestones: Vec::new(),
    };
    let load = Load::start(plan, &cluster.topology.client, move |event| {
        // The receiver stays until the load is done.
        sender.send(event).ok();
    })?;
    while !matches!(events.recv(), Ok(LoadEvent::Done) | Err(_)) {}
    Ok(load.attempts().iter().filter_map(|attempt| attempt.connect).collect())
}

fn count(cluster: &Cluster, args: &BenchArgs) -> Result<Counts> {
    let client = &cluster.topology.client;
    let oracle = Oracle::new(VIP.into());
    let listener = Listener::start(client, oracle, None)?;
    rush(client, &cluster.sources, args.connections, CONCURRENCY)?;
    let (oracle, frames_lost) = listener.finish()?;
    let report = oracle.report(frames_lost);
    let share = |count: u64| count as f64 / report.attempts as f64;
    let claims = report.claims.claim_entries + report.claims.own_entries;
    let hosts = 0..cluster.topology.hosts.len();
    Ok(Counts {
        claims_per_connection: share(claims),
        second_syn_ack_percent: report.second_syn_ack_percent,
        syn_retransmissions: report.syn_retransmissions,
        share_percent: hosts.map(|host| share(oracle.syn_acks_of(host)) * 100.0).collect(),
        frames_lost,
    })
}

/// Resident memory of the largest of a cluster's daemons, in bytes.
fn resident(cluster: &Cluster) -> Result<Option<u64>> {
    if !matches!(cluster.contender, Contender::Clusterd(_)) {
        return Ok(None);
    }
    let sizes: Vec<_> =
        cluster.deciders.iter().map(process::Process::resident_bytes).collect::<Result<_>>()?;
    Ok(sizes.into_iter().max())
}

/// Processes that wanted a CPU during the last minute, on average.
fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    first.parse().context("read the load average")
}

fn show_progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        eprint!("\r{text}\x1b[K");
        drop(stderr.flush());
    }
}
