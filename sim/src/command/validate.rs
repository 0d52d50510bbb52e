//! `clusterd-sim validate`: is the simulator right about what a lab has seen?

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clusterd_sim::validation;

use super::{DIFFERENT, say};

/// Options of `validate`.
#[derive(Debug, clap::Args)]
pub struct ValidateArgs {
    /// What `clusterd lab run --record` has made
    directory: PathBuf,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs, each with a seed of its own
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: u32,
    /// Runs at a time [default: one for each processor]; what comes out does not depend on it
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "J")]
    jobs: usize,
    /// Writes the comparison as JSON, too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Simulates, compares and prints.
pub fn execute(args: &ValidateArgs) -> Result<ExitCode> {
    let comparison = validation::compare(&args.directory, args.seed, args.runs, args.jobs)?;
    let json = serde_json::to_string_pretty(&comparison).context("write the comparison as JSON")?;
    if let Some(path) = &args.out {
        fs::write(path, format!("{json}\n"))
            .with_context(|| format!("write {}", path.display()))?;
    }
    match args.json {
        true => say(json)?,
        false => say(comparison.to_text())?,
    }
    Ok(if comparison.within { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}
