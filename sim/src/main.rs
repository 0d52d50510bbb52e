//! `clusterd-sim`: see [`clusterd_sim`] for what is simulated.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Parser;
use clusterd_sim::file;
use clusterd_sim::record::Nothing;
use clusterd_sim::scenario::Scenario;
use clusterd_sim::summary::Summary;
use clusterd_sim::world::World;

/// Study races before they happen
#[derive(Debug, Parser)]
#[command(version)]
enum Cli {
    /// Simulates a scenario
    Run(RunArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// A file of parameters; without one, all are at their defaults
    scenario: Option<PathBuf>,
    /// Seed of all chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Sets a parameter
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clusterd-sim: {error:#}");
            ExitCode::from(78)
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let Cli::Run(args) = cli;
    let mut scenario = match &args.scenario {
        Some(path) => file::read(path).map_err(|error| anyhow!(error))?,
        None => Scenario::default(),
    };
    for setting in &args.set {
        let (key, value) =
            setting.split_once('=').ok_or_else(|| anyhow!("--set {setting}: wanted KEY=VALUE"))?;
        scenario.set(key, value).map_err(|error| anyhow!("--set {error}"))?;
    }
    scenario.check().map_err(|error| anyhow!(error))?;
    let mut world = World::new(&scenario, args.seed, Nothing);
    world.run();
    println!("{}", serde_json::to_string_pretty(&Summary::new(&scenario, &world))?);
    Ok(())
}
