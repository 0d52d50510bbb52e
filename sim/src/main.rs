//! `clusterd-sim`: see [`clusterd_sim`] for what is simulated.

mod command;

use std::process::ExitCode;

use clap::Parser;

/// Study races of claims before they happen
#[derive(Debug, Parser)]
#[command(version)]
enum Cli {
    /// Simulates a scenario
    Run(command::run::RunArgs),
}

/// The exit code for a scenario or options that cannot be used (`EX_CONFIG` of sysexits.h).
const CONFIG: u8 = 78;

fn main() -> ExitCode {
    let result = match Cli::parse() {
        Cli::Run(args) => command::run::execute(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("clusterd-sim: {error:#}");
        ExitCode::from(CONFIG)
    })
}
