//! `clusterd-sim sweep`: every combination of some values, resumable and divisible.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clusterd_sim::replication;
use clusterd_sim::result::RunResult;
use clusterd_sim::sweep::{Axis, Shard, Store, Sweep};
use rayon::prelude::*;

use super::{CommandLine, ScenarioArgs, progress_bar, say};

/// How values are written.
const VALUES: &str = "\
VALUES of --over:
  cluster.rule=clusterd,original       separated by commas
  cluster.settle=0s..1ms:100us         from, to, step
  cluster.hosts=2..64*2                from, to, factor
  cluster.hosts=2..8:1,16,32           any of these together
  service.time=exp 1ms,pareto 1ms 1.5  delays have blanks: quote the whole for the shell
  service.speeds=8;8,4;8,4,2           separated by semicolons, if a value has commas
  service.speeds=8,4;                  a single value that has

All combinations are simulated in a fixed order, the last --over changing first, each on the
same seeds. Every finished point is a file in DIR: the same command again does what is missing.
To divide the work, start it N times with --shard 0/N to --shard N-1/N, with one DIR or one
for each, and join the results with `clusterd-sim merge`. `sim/jobs` has files for Slurm and
Kubernetes.";

/// Options of `sweep`.
#[derive(Debug, clap::Args)]
#[command(after_help = VALUES)]
pub struct SweepArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Varies a parameter; see below for what VALUES can be
    #[arg(long, required = true, value_name = "KEY=VALUES")]
    over: Vec<String>,
    /// Seed of the first run of each point; run I, counted from 0, has the seed SEED + I
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs of each point
    #[arg(long, default_value_t = 1, value_name = "N")]
    runs: u32,
    /// Runs at a time [default: one for each processor]; what comes out does not depend on it
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "J")]
    jobs: usize,
    /// Only every Nth point, from point K on; K counts from 0
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Directory for the points
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Simulates the points that are missing.
pub fn execute(args: &SweepArgs) -> Result<ExitCode> {
    let base = args.scenario.load()?;
    let axis = |text: &String| text.parse().map_err(|error| anyhow!("--over {error}"));
    let over: Vec<Axis> = args.over.iter().map(axis).collect::<Result<_>>()?;
    let shard = match &args.shard {
        Some(text) => text.parse().map_err(|error| anyhow!("--shard {error}"))?,
        None => Shard::ALL,
    };
    let seeds = replication::seeds(args.seed, args.runs)?;
    let sweep = Sweep::new(&base, over, args.seed, args.runs)?;
    let pool = replication::threads(args.jobs)?;
    let store = Store::open(&args.out, &sweep)?;
    let missing = store.missing(&sweep, shard)?;
    let its = (0..sweep.points()).filter(|&point| shard.has(point)).count();
    say(args.command_line())?;
    say(format_args!(
        "{} points of {} runs; here {its}, of which {} are done",
        sweep.points(),
        args.runs,
        its - missing.len()
    ))?;
    let progress = progress_bar(missing.len(), "points");
    pool.install(|| {
        missing.par_iter().try_for_each(|&point| {
            let scenario = sweep.scenario_at(&base, point)?;
            let runs: Vec<RunResult> =
                seeds.par_iter().map(|&seed| RunResult::of(&scenario, seed)).collect();
            store.add(&sweep, point, &scenario, &runs)?;
            progress.inc(1);
            anyhow::Ok(())
        })
    })?;
    progress.finish_and_clear();
    if shard == Shard::ALL {
        let merge = CommandLine::new("merge").path(&args.out).option("--out", "FILE.csv");
        say(format_args!("all points are done; to join them: {merge}"))?;
    } else {
        say("all points of this shard are done; to join all shards: clusterd-sim merge --help")?;
    }
    Ok(ExitCode::SUCCESS)
}

impl SweepArgs {
    /// What gives the same again; the number of threads has no part in it.
    fn command_line(&self) -> CommandLine {
        let line = CommandLine::new("sweep").scenario(&self.scenario);
        let line = self.over.iter().fold(line, |line, over| line.option("--over", over));
        let line = line.option("--seed", self.seed).option("--runs", self.runs);
        let line = self.shard.iter().fold(line, |line, shard| line.option("--shard", shard));
        line.option("--out", self.out.display())
    }
}
