//! `clusterd-sim report`: the experiments, as one page.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clusterd_sim::replication;
use clusterd_sim::report::{self, Effort};

use super::progress_bar;

/// Options of `report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// File to write
    #[arg(default_value = "report.html")]
    file: PathBuf,
    /// Runs of each scenario
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: u32,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of the runs, of what is usual
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    length: f64,
    /// Runs at a time [default: one for each processor]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "J")]
    jobs: usize,
}

/// Does all experiments and writes the page.
pub fn execute(args: &ReportArgs) -> Result<ExitCode> {
    let ReportArgs { file, runs, seed, length, jobs } = args;
    ensure!(*length > 0.0 && *length <= 100.0, "--length {length}: wanted above 0, at most 100");
    println!(
        "clusterd-sim report {} --runs {runs} --seed {seed} --length {length}",
        file.display()
    );
    let effort = Effort { runs: *runs, seed: *seed };
    let pool = replication::threads(*jobs)?;
    let experiments = report::experiments(*length);
    let cells: usize = experiments.iter().map(|experiment| experiment.cells.len()).sum();
    let bar = progress_bar(cells * *runs as usize, "runs");
    let mut outcomes = Vec::new();
    for experiment in experiments {
        outcomes.push(report::carry_out(experiment, &pool, effort, || bar.inc(1))?);
    }
    bar.finish_and_clear();
    let page = report::page(&outcomes, effort)?;
    std::fs::write(file, page).with_context(|| format!("write {}", file.display()))?;
    println!("{} experiments, {cells} scenarios: {}", outcomes.len(), file.display());
    Ok(ExitCode::SUCCESS)
}
