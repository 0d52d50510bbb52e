//! `clusterd`: see `clusterd --help`, and README for the whole picture.

mod capture;
mod cleanup;
mod cli;
mod control;
mod daemon;
mod doctor;
mod failure;
mod io;
mod lab;
mod latency;
mod verify;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_log(&cli.log) {
        eprintln!("clusterd: --log {}: {error}", cli.log);
        return ExitCode::from(2);
    }
    if let Some(
        Command::Rules(_)
        | Command::Status(_)
        | Command::Cleanup { .. }
        | Command::Verify(_)
        | Command::Doctor(_),
    ) = cli.command
    {
        // Their output may be piped into a program that has read enough.
        // SAFETY: the default action needs no handler.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
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
        Some(Command::Doctor(args)) => return doctor::run(&args),
        Some(Command::Verify(args)) => return verify::run(&args),
        Some(Command::Lab(command)) => return lab::execute(&command),
        Some(Command::Cleanup { vip }) => cleanup::run(vip),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Logs to standard error; under systemd the journal adds time and colour itself.
fn start_log(filter: &str) -> Result<(), ParseError> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
    Ok(())
}
