//! Each subcommand: its options and what it does.

pub mod explain;
pub mod run;
pub mod swarm;

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clusterd_sim::file;
use clusterd_sim::scenario::Scenario;

/// The exit code when an invariant is violated.
pub const VIOLATED: u8 = 1;

/// What all subcommands about one scenario take.
#[derive(Clone, Debug, clap::Args)]
pub struct ScenarioArgs {
    /// File of parameters; without one, all are at their defaults
    scenario: Option<PathBuf>,
    /// Sets a parameter, after the file
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
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
        scenario.check().map_err(|error| anyhow!(error))?;
        Ok(scenario)
    }
}
