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

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Lab(command) => lab::execute(&command),
    }
}
