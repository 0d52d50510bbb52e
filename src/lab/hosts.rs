//! The commands that make a namespace a host of the cluster: service and daemon.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::netns::Namespace;
use super::topology::{VIP, host_name};

/// Environment variable that tells the daemon, and tools, a host's runtime directory.
pub const RUN_DIR_VARIABLE: &str = "CLUSTERD_RUN_DIR";

/// How the lab's daemons are to run.
#[derive(Clone, Debug, Args)]
pub struct DaemonArgs {
    /// When a host claims a connection; the daemon's default if not given
    #[arg(long)]
    pub pacing: Option<Pacing>,
    /// What protects a connection from the hosts not chosen; the daemon's default if not given
    #[arg(long)]
    pub guard: Option<Guard>,
    /// One more argument for every daemon, repeatable
    #[arg(long = "daemon-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub extra: Vec<String>,
}

/// When a host claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pacing {
    /// In rank order, one after the other
    Rank,
    /// All as soon as they can
    Race,
}

/// What keeps a host that was not chosen from breaking the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// Its resets are held back
    Rst,
    /// It hears only what acknowledges its own SYN-ACK
    Strict,
}

impl DaemonArgs {
    /// These options as arguments of the daemon.
    fn to_daemon_arguments(&self) -> Vec<String> {
        let mut arguments = self.modes();
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// These options as the lab takes them.
    pub fn to_lab_options(&self) -> Vec<String> {
        let mut options = self.modes();
        options.extend(
            self.extra
                .iter()
                .map(|argument| format!("--daemon-arg={argument}")),
        );
        options
    }

    fn modes(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(pacing) = self.pacing.and_then(|pacing| pacing.to_possible_value()) {
            arguments.extend(["--pacing".to_owned(), pacing.get_name().to_owned()]);
        }
        if let Some(guard) = self.guard.and_then(|guard| guard.to_possible_value()) {
            arguments.extend(["--guard".to_owned(), guard.get_name().to_owned()]);
        }
        arguments
    }
}

/// The service of the host at `index`.
pub fn service_command(namespace: &Namespace, index: usize) -> Result<Command> {
    let mut command = this_program_in(namespace)?;
    command.args(["lab", "serve", "--name", &host_name(index)]);
    Ok(command)
}

/// The daemon of a host that keeps its runtime files in `run_dir`, which is created.
pub fn daemon_command(namespace: &Namespace, run_dir: &Path, args: &DaemonArgs) -> Result<Command> {
    std::fs::create_dir_all(run_dir)
        .with_context(|| format!("cannot create {}", run_dir.display()))?;
    let mut command = this_program_in(namespace)?;
    command
        .arg("eth0")
        .arg(VIP.to_string())
        .args(args.to_daemon_arguments())
        .env(RUN_DIR_VARIABLE, run_dir)
        // Logs are read by the lab, which may show them anywhere.
        .env("NO_COLOR", "1");
    Ok(command)
}

fn this_program_in(namespace: &Namespace) -> Result<Command> {
    let program = std::env::current_exe()
        .context("cannot find this program's own file to start hosts with")?;
    Ok(namespace.command(program))
}
