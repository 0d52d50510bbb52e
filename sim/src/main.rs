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
    /// Simulates all combinations of some values of some parameters
    Sweep(command::sweep::SweepArgs),
    /// Joins what the shards of a sweep have written
    Merge(command::merge::MergeArgs),
    /// Lists all parameters: kind, range, default, meaning
    Parameters(command::parameters::ParametersArgs),
    /// Draws scenarios from seeds and checks invariants after every event; exits with 1 if one is violated
    Swarm(command::swarm::SwarmArgs),
    /// Checks one scenario as the swarm does; exits with 1 if an invariant is violated
    Check(command::swarm::CheckArgs),
    /// Does the experiments and writes one page with figures
    Report(command::report::ReportArgs),
    /// Feeds what `clusterd --record` has written to the core once more; exits with 1 if an output differs
    Replay(command::replay::ReplayArgs),
    /// Repeats what a lab on real kernels has recorded, and compares; exits with 1 if a figure is outside of its band
    Validate(command::validate::ValidateArgs),
    /// Draws what happens to one connection on all hosts, and why
    Explain(command::explain::ExplainArgs),
}

/// The exit code for a scenario or options that cannot be used (`EX_CONFIG` of sysexits.h).
const CONFIG: u8 = 78;

fn main() -> ExitCode {
    let result = match Cli::parse() {
        Cli::Run(args) => command::run::execute(&args),
        Cli::Sweep(args) => command::sweep::execute(&args),
        Cli::Merge(args) => command::merge::execute(&args),
        Cli::Parameters(args) => command::parameters::execute(&args),
        Cli::Swarm(args) => command::swarm::execute(&args),
        Cli::Check(args) => command::swarm::check(&args),
        Cli::Report(args) => command::report::execute(&args),
        Cli::Replay(args) => command::replay::execute(&args),
        Cli::Validate(args) => command::validate::execute(&args),
        Cli::Explain(args) => command::explain::execute(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("clusterd-sim: {error:#}");
        ExitCode::from(CONFIG)
    })
}
