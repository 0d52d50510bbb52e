//! The binary of clusterd.

mod lab;

use std::process::ExitCode;

use clap::Parser;

/// Several hosts answer one virtual IP together
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Try a whole cluster on this machine, in network namespaces
    #[command(subcommand)]
    Lab(lab::LabCommand),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Lab(command) => lab::execute(&command),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
