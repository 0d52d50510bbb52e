//! `clusterd-sim report`: the experiments, as one page.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clusterd_sim::report::{self, Effort};
use clusterd_sim::{replication, validation};

use super::{CommandLine, progress_bar, say};

/// What `--quick` does of everything.
const QUICK_SHARE: f64 = 0.02;
const QUICK_RUNS: u32 = 2;

/// Options of `report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// File to write
    #[arg(default_value = "report.html")]
    file: PathBuf,
    /// Runs of each scenario [default: 5]
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How much of the usual length is simulated [default: 1]
    #[arg(long, value_name = "SHARE")]
    share: Option<f64>,
    /// A rough form in a few seconds: --share 0.02 --runs 2, unless these say otherwise
    #[arg(long)]
    quick: bool,
    /// Does only experiments with these names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Also compares with what `clusterd lab run --record` has written into this directory; can be given more than once
    #[arg(long, value_name = "DIR")]
    lab: Vec<PathBuf>,
    /// Runs at a time [default: one for each processor]; what comes out does not depend on it
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "J")]
    jobs: usize,
}

/// Does all experiments and writes the page.
pub fn execute(args: &ReportArgs) -> Result<ExitCode> {
    let (share, runs) = if args.quick { (QUICK_SHARE, QUICK_RUNS) } else { (1.0, 5) };
    let (share, runs) = (args.share.unwrap_or(share), args.runs.unwrap_or(runs));
    ensure!(share > 0.0 && share <= 100.0, "--share {share}: wanted above 0, at most 100");
    let effort = Effort { share, runs, seed: args.seed };
    // The name of the file is no part of the page.
    let options = |line: CommandLine| {
        let line = line.option("--runs", runs).option("--seed", args.seed);
        let line = line.option("--share", share);
        let line = args.lab.iter().fold(line, |line, lab| line.option("--lab", lab.display()));
        if args.only.is_empty() { line } else { line.option("--only", args.only.join(",")) }
    };
    replication::seeds(args.seed, runs)?;
    let pool = replication::threads(args.jobs)?;
    let mut experiments = report::experiments(effort)?;
    for name in &args.only {
        let names: Vec<&str> = experiments.iter().map(|experiment| experiment.id).collect();
        ensure!(
            names.contains(&name.as_str()),
            "--only {name}: wanted some of {}",
            names.join(",")
        );
    }
    experiments.retain(|it| args.only.is_empty() || args.only.iter().any(|name| name == it.id));
    let compare = |lab: &PathBuf| {
        validation::compare(lab, args.seed, runs, args.jobs)
            .with_context(|| format!("compare with the lab of {}", lab.display()))
    };
    let comparisons = args.lab.iter().map(compare).collect::<Result<Vec<_>>>()?;
    // Not after minutes of work for a file that cannot be written.
    let writable = fs::OpenOptions::new().append(true).create(true).open(&args.file);
    writable.with_context(|| format!("write {}", args.file.display()))?;
    say(options(CommandLine::new("report").path(&args.file)))?;
    let mut scenarios = 0;
    for curve in experiments.iter().flat_map(|experiment| &experiment.curves) {
        scenarios += curve.scenarios()?.len();
    }
    let progress = progress_bar(scenarios * runs as usize, "runs");
    let mut outcomes = Vec::new();
    for experiment in experiments {
        outcomes.push(report::carry_out(experiment, &pool, effort, || progress.inc(1))?);
    }
    progress.finish_and_clear();
    let page = report::page(
        &outcomes,
        &comparisons,
        effort,
        &options(CommandLine::new("report")).to_string(),
    )?;
    fs::write(&args.file, page).with_context(|| format!("write {}", args.file.display()))?;
    let done = outcomes.len();
    say(format_args!("{done} experiments, {scenarios} scenarios: {}", args.file.display()))?;
    Ok(ExitCode::SUCCESS)
}
