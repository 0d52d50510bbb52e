//! `clusterd-sim run`: one scenario, one seed.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clusterd_sim::record::Nothing;
use clusterd_sim::summary::Summary;
use clusterd_sim::world::World;

use super::ScenarioArgs;

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Seed of all chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Simulates and prints the figures.
pub fn execute(args: &RunArgs) -> Result<ExitCode> {
    let scenario = args.scenario.load()?;
    let mut world = World::new(&scenario, args.seed, Nothing);
    world.run();
    let summary = Summary::new(&scenario, &world);
    println!("{}", serde_json::to_string_pretty(&summary).context("write the figures")?);
    Ok(ExitCode::SUCCESS)
}
