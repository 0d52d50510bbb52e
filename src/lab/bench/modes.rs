//! `clusterd lab modes`: what a MAC mode costs, next to `multicast`.

use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::contender::{Cluster, Contender};
use super::summary::median;
use super::{CONCURRENCY, SINGLES_SHARE, load_average, one_at_a_time, show_progress};
use crate::io::cluster_mac::MacMode;
use crate::lab::process;
use crate::lab::rush::rush;
use crate::lab::topology::{CLIENT_ADDRESSES_MAX, HOSTS_MAX};
use crate::latency::Latency;

/// Options of `lab modes`.
#[derive(Clone, Debug, Args)]
pub struct ModesArgs {
    /// How often each mode is measured
    #[arg(long, default_value_t = 9, value_parser = crate::lab::parse_within::<1, 100>)]
    rounds: usize,
    /// Connections per round with 64 at a time; a fifth of it one at a time
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(100..))]
    connections: u64,
    /// Number of hosts
    #[arg(long, default_value_t = 3, value_parser = crate::lab::parse_within::<1, HOSTS_MAX>)]
    nodes: usize,
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
}

impl ModesArgs {
    /// The command line that repeats the run, defaults spelled out.
    fn command_line(&self) -> String {
        let Self { rounds, connections, nodes, .. } = self;
        format!("clusterd lab modes --nodes {nodes} --rounds {rounds} --connections {connections}")
    }
}

/// What one mode did in one round: medians of connect times in microseconds, and connections that failed.
struct Sample {
    one: f64,
    many: f64,
    failed: u64,
}

/// Medians over the rounds; ratios to `multicast` are taken within a round.
#[derive(Debug, Serialize)]
struct Figures {
    mode: MacMode,
    one_p50_us: f64,
    one_p50_ratio: f64,
    many_p50_us: f64,
    many_p50_ratio: f64,
    failed: u64,
}

#[derive(Debug, Serialize)]
struct Summary {
    hosts: usize,
    /// Processes that wanted a CPU in the minute before the run, and in its last one.
    load_average: [f64; 2],
    modes: Vec<Figures>,
    command: String,
}

/// Runs the comparison. Must be called on the main thread, before there are others.
pub fn run(args: &ModesArgs) -> Result<ExitCode> {
    // Nothing outlives this process: namespaces and children end with it.
    process::on_interrupt(|| std::process::exit(130))?;
    process::raise_descriptor_limit();
    let before = load_average()?;
    show_progress("raising the clusters");
    let raise = |mode| Cluster::raise(Contender::InMode(mode), args.nodes, CLIENT_ADDRESSES_MAX);
    let clusters: Vec<_> = MacMode::ALL.into_iter().map(raise).collect::<Result<_>>()?;
    let mut samples: Vec<Vec<Sample>> = clusters.iter().map(|_| Vec::new()).collect();
    for round in 0..args.rounds {
        show_progress(&format!("round {} of {}", round + 1, args.rounds));
        for turn in 0..clusters.len() {
            // Nobody always comes first.
            let index = (turn + round) % clusters.len();
            let sample = sample(&clusters[index], args.connections)
                .with_context(|| format!("measure {}", clusters[index].contender.name()))?;
            samples[index].push(sample);
        }
    }
    show_progress("");
    let summary = Summary {
        hosts: args.nodes,
        load_average: [before, load_average()?],
        modes: MacMode::ALL
            .into_iter()
            .zip(&samples)
            .map(|(mode, own)| Figures::of(mode, own, &samples[0]))
            .collect(),
        command: args.command_line(),
    };
    if args.json {
        println!("{}", serde_json::to_string(&summary).context("write the figures as JSON")?);
    } else {
        print!("{summary}");
    }
    let failed: u64 = summary.modes.iter().map(|figures| figures.failed).sum();
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sample(cluster: &Cluster, connections: u64) -> Result<Sample> {
    let singles = connections / SINGLES_SHARE;
    let one = one_at_a_time(cluster, singles)?;
    let many = rush(&cluster.topology.client, &cluster.sources, connections, CONCURRENCY)?;
    let p50 = |latency: Latency| latency.connect_p50_us.unwrap_or(f64::NAN);
    Ok(Sample {
        failed: singles - one.len() as u64 + many.failed,
        one: p50(Latency::of(one.into_iter())),
        many: p50(Latency::of(many.connects.into_iter())),
    })
}

impl Figures {
    /// What came of a mode, and how that compares with the samples of `multicast`.
    fn of(mode: MacMode, own: &[Sample], multicast: &[Sample]) -> Self {
        let over = |value: fn(&Sample) -> f64| median(own.iter().map(value));
        let ratio = |value: fn(&Sample) -> f64| {
            median(own.iter().zip(multicast).map(|(own, to)| value(own) / value(to)))
        };
        Self {
            mode,
            one_p50_us: over(|sample| sample.one),
            one_p50_ratio: ratio(|sample| sample.one),
            many_p50_us: over(|sample| sample.many),
            many_p50_ratio: ratio(|sample| sample.many),
            failed: own.iter().map(|sample| sample.failed).sum(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = self.load_average;
        writeln!(
            f,
            "{} hosts on a hub; load average {before:.2} before the run, {after:.2} at its end\n\
             Medians of connect times in us; in brackets, as multiples of multicast in the same round.\n\n\
             mode        one at a time    {CONCURRENCY} at a time",
            self.hosts
        )?;
        for Figures { mode, one_p50_us, one_p50_ratio, many_p50_us, many_p50_ratio, failed } in
            &self.modes
        {
            let name = mode.name();
            write!(
                f,
                "{name:9}  {one_p50_us:>6.0} ({one_p50_ratio:4.2})   {many_p50_us:>6.0} ({many_p50_ratio:4.2})"
            )?;
            match failed {
                0 => writeln!(f)?,
                failed => writeln!(f, "  {failed} connections FAILED")?,
            }
        }
        writeln!(f, "\nrepeat with: {}", self.command)
    }
}
