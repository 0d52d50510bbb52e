//! `clusterd-sim explain`: one connection attempt over all hosts.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clusterd_sim::diagram::{Diagram, svg, text};

use super::ScenarioArgs;

/// Options of `explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Seed of all chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which connection, from 0: its number in connections.csv and in the trace
    #[arg(long, value_name = "NUMBER")]
    flow: u32,
    /// Draws it into this file, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Simulates and draws one attempt.
pub fn execute(args: &ExplainArgs) -> Result<ExitCode> {
    let scenario = args.scenario.load()?;
    let diagram = Diagram::explain(&scenario, args.seed, args.flow).ok_or_else(|| {
        anyhow!("--flow {}: the run has fewer connections; try --set run.duration=1m", args.flow)
    })?;
    print!("{}", text::draw(&diagram));
    if let Some(path) = &args.svg {
        let drawing = svg::draw(&diagram);
        std::fs::write(path, drawing).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
