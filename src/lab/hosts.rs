//! The commands that make a namespace a host of the cluster: service and daemon.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::netns::Namespace;
use super::topology::{Family, host_name};
use crate::cli::PacingArg;
use crate::io::cluster_mac::MacMode;
use crate::io::rules::Guard;

/// How the lab's daemons are to run.
#[derive(Clone, Debug, Args)]
pub struct DaemonArgs {
    /// What kind of MAC the virtual IP resolves to.
    #[arg(long, value_enum, default_value_t = MacMode::Multicast, value_name = "MODE")]
    pub mac: MacMode,

    /// When a host claims a connection.
    #[arg(long, value_enum, default_value_t = PacingArg::Rank)]
    pub pacing: PacingArg,

    /// How the hosts not chosen are kept from breaking a connection.
    #[arg(long, value_enum, default_value_t = Guard::Rst)]
    pub guard: Guard,

    /// One more argument for every daemon, such as --daemon-arg=--slot=2ms; repeatable.
    #[arg(long = "daemon-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub extra: Vec<String>,
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
        options.extend(self.extra.iter().map(|argument| format!("--daemon-arg={argument}")));
        options
    }

    fn modes(&self) -> Vec<String> {
        let modes = [
            ("--mac", name_of(&self.mac)),
            ("--pacing", name_of(&self.pacing)),
            ("--guard", name_of(&self.guard)),
        ];
        modes.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
    }
}

/// The name of a value as the command line has it.
pub fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The service of the host at `index`.
pub fn service_command(namespace: &Namespace, index: usize, family: Family) -> Result<Command> {
    let mut command = this_program_in(namespace)?;
    command.args(["lab", "serve", "--name", &host_name(index)]);
    match family {
        Family::V4 => {}
        Family::V6 => drop(command.arg("--ipv6")),
    }
    Ok(command)
}

/// The daemon of a host. What it remembers is in `state`, or lost; what its core does is in
/// `record`, if that is wanted.
pub fn daemon_command(
    namespace: &Namespace,
    family: Family,
    args: &DaemonArgs,
    state: Option<&Path>,
    record: Option<&Path>,
) -> Result<Command> {
    let mut command = this_program_in(namespace)?;
    command.arg("eth0").arg(family.vip().to_string()).args(args.to_daemon_arguments());
    match state {
        Some(directory) => command.arg("--state-dir").arg(directory),
        None => command.arg("--no-state"),
    };
    if let Some(file) = record {
        command.arg("--record").arg(file);
    }
    Ok(command)
}

/// This program, to be run inside a namespace.
pub fn this_program_in(namespace: &Namespace) -> Result<Command> {
    let program =
        std::env::current_exe().context("find this program's own file to start hosts with")?;
    Ok(namespace.command(program))
}
