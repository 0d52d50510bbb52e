//! `clusterd`: see `clusterd --help`, and README for the whole picture.

mod cleanup;
mod cli;
mod control;
mod daemon;
mod failure;
mod io;
mod lab;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli.log);
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("clusterd: {error:#}");
            ExitCode::from(Failure::exit_code(&error))
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        None => daemon::run(&cli.cluster()?),
        Some(Command::Rules(cluster)) => daemon::print_rules(&cluster),
        Some(Command::Status(status)) => control::print_status(&status),
        Some(Command::Lab(command)) => return lab::execute(&command),
        Some(Command::Cleanup { vip }) => cleanup::run(vip),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Logs to standard error; under systemd the journal adds time and colour itself.
fn start_log(filter: &str) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}
