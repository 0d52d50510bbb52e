//! Each subcommand: its options and what it does.

pub mod explain;
pub mod merge;
pub mod parameters;
pub mod replay;
pub mod report;
pub mod run;
pub mod swarm;
pub mod sweep;
pub mod validate;

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clusterd_sim::file;
use clusterd_sim::scenario::Scenario;
use clusterd_sim::shell::quote;
use indicatif::{ProgressBar, ProgressStyle};

/// The exit code when an invariant is violated.
pub const VIOLATED: u8 = 1;
/// The exit code when a recording or a lab and the simulator differ.
pub const DIFFERENT: u8 = 1;

/// What all subcommands about one scenario take.
#[derive(Clone, Debug, clap::Args)]
pub struct ScenarioArgs {
    /// File of parameters; without one, all are at their defaults
    scenario: Option<PathBuf>,
    /// Sets a parameter, after the file
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Lets something go wrong, after what the file says, as `2s kill h1`
    #[arg(long, value_name = "FAULT")]
    fault: Vec<String>,
}

impl ScenarioArgs {
    /// The scenario that they describe.
    pub fn load(&self) -> Result<Scenario> {
        let mut scenario = match &self.scenario {
            Some(path) => file::read(path).map_err(|error| anyhow!(error))?,
            None => Scenario::default(),
        };
        for setting in &self.set {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| anyhow!("--set {setting}: wanted KEY=VALUE"))?;
            scenario.set(key, value).map_err(|error| anyhow!("--set {error}"))?;
        }
        for fault in &self.fault {
            let fault = fault.parse().map_err(|error: String| anyhow!("--fault {error}"))?;
            scenario.faults.push(fault);
        }
        scenario.check().map_err(|error| match &self.scenario {
            Some(path) => anyhow!("{}: {error}", file::place(path, &error)),
            None => anyhow!("{error}"),
        })?;
        Ok(scenario)
    }
}

/// A command as it is typed into a shell.
#[derive(Clone, Debug)]
pub struct CommandLine(String);

impl CommandLine {
    /// A subcommand without options.
    pub fn new(subcommand: &str) -> Self {
        Self(format!("clusterd-sim {subcommand}"))
    }

    /// With a scenario.
    pub fn scenario(mut self, args: &ScenarioArgs) -> Self {
        if let Some(path) = &args.scenario {
            self = self.path(path);
        }
        let line = args.set.iter().fold(self, |line, setting| line.option("--set", setting));
        args.fault.iter().fold(line, |line, fault| line.option("--fault", fault))
    }

    /// With an option that takes a value.
    pub fn option(self, name: &str, value: impl Display) -> Self {
        self.word(name).word(&value.to_string())
    }

    /// With an option that takes none, if it was given.
    pub fn flag(self, name: &str, given: bool) -> Self {
        if given { self.word(name) } else { self }
    }

    /// With an option that takes a path, if it was given.
    pub fn with_path(self, name: &str, path: Option<&Path>) -> Self {
        match path {
            Some(path) => self.option(name, path.to_string_lossy()),
            None => self,
        }
    }

    /// With a path that no option goes before.
    pub fn path(self, path: &Path) -> Self {
        self.word(&path.to_string_lossy())
    }

    fn word(mut self, word: &str) -> Self {
        self.0.push(' ');
        self.0 += &quote(word);
        self
    }
}

impl Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Prints a line. That nobody reads it any more, as after `| head`, is no error.
pub fn say(line: impl Display) -> Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
}

/// Progress on the terminal, if standard error is one.
pub fn progress_bar(length: usize, of_what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {prefix}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style).with_prefix(of_what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_quoted_for_a_shell() {
        let line = CommandLine::new("run")
            .option("--set", "service.time=exp 1ms")
            .option("--seed", 3)
            .flag("--json", true)
            .flag("--trace", false)
            .with_path("--out", Some(Path::new("it's/here")));
        assert_eq!(
            line.to_string(),
            r"clusterd-sim run --set 'service.time=exp 1ms' --seed 3 --json --out 'it'\''s/here'"
        );
    }
}
