//! What an experiment is made of.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::outcome::Outcome;
use crate::result::IntervalRow;
use crate::scenario::{Scenario, parameter};
use crate::setting::Setting;
use crate::shell::quote;
use crate::summary::Summary;
use crate::sweep::Axis;

/// How much is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Length of the runs or, where that is fixed, rate of connections: 1 for the full report.
    pub share: f64,
    /// Runs of each scenario.
    pub runs: u32,
    /// Seed of the first.
    pub seed: u64,
}

/// No run is shorter, however small the share.
const SHORTEST_MS: f64 = 40.0;
/// No fewer connections come in a second.
const SLOWEST: f64 = 40.0;

impl Effort {
    /// The length of runs that take so many seconds in the full report, as a setting.
    pub fn seconds(&self, full: f64) -> String {
        let milliseconds = (full * 1e3 * self.share).round().max(SHORTEST_MS);
        Duration::from_millis(milliseconds as u64).show()
    }

    /// The rate of connections in runs whose length is fixed, as a setting.
    pub fn rate(&self, full: f64) -> String {
        (full * self.share).round().max(SLOWEST).to_string()
    }
}

/// Scenarios under one name: a single one, or one for each value of a parameter.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// What differs from the defaults.
    pub settings: Vec<(&'static str, String)>,
    /// What goes wrong.
    pub faults: Vec<&'static str>,
    /// What changes along it.
    pub over: Option<Axis>,
}

impl Curve {
    /// A curve of this name with settings that it shares with others.
    pub fn new(name: impl Into<String>, settings: &[(&'static str, &str)]) -> Self {
        let settings = settings.iter().map(|&(key, value)| (key, value.to_owned())).collect();
        Self { name: name.into(), settings, faults: Vec::new(), over: None }
    }

    /// With one more setting.
    pub fn set(mut self, key: &'static str, value: impl ToString) -> Self {
        self.settings.push((key, value.to_string()));
        self
    }

    /// With something that goes wrong.
    pub fn fault(mut self, fault: &'static str) -> Self {
        self.faults.push(fault);
        self
    }

    /// With a parameter that changes along it, as `--over` has it.
    pub fn over(mut self, values: &str) -> Result<Self> {
        self.over = Some(values.parse().map_err(|error: String| anyhow!("{values}: {error}"))?);
        Ok(self)
    }

    /// Its scenarios, each with the value that it belongs to.
    pub fn scenarios(&self) -> Result<Vec<(Option<String>, Scenario)>> {
        let mut scenario = Scenario::default();
        let wrong = |error: String| anyhow!("{}: {error}", self.name);
        for (key, value) in &self.settings {
            scenario.set(key, value).map_err(wrong)?;
        }
        for fault in &self.faults {
            scenario.faults.push(fault.parse().map_err(wrong)?);
        }
        let Some(axis) = &self.over else {
            scenario.check().map_err(wrong)?;
            return Ok(vec![(None, scenario)]);
        };
        let at = |value: &String| {
            let mut scenario = scenario.clone();
            scenario.set(&axis.key, value).map_err(wrong)?;
            scenario.check().map_err(wrong)?;
            Ok((Some(value.clone()), scenario))
        };
        axis.values.iter().map(at).collect()
    }

    /// What differs from the defaults, for people.
    pub fn differences(&self) -> String {
        let mut words: Vec<String> =
            self.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        words.extend(self.faults.iter().map(|fault| format!("fault {fault}")));
        words.join("; ")
    }

    /// The command that gives its numbers again; its files go to a directory of that name.
    pub fn command(&self, effort: Effort, directory: &str) -> String {
        let mut line = "clusterd-sim ".to_owned();
        line += if self.over.is_some() { "sweep" } else { "run" };
        let mut option = |name: &str, value: &str| {
            line.push_str(&format!(" {name} {}", quote(value)));
        };
        for (key, value) in &self.settings {
            option("--set", &format!("{key}={value}"));
        }
        self.faults.iter().for_each(|fault| option("--fault", fault));
        self.over.iter().for_each(|over| option("--over", &over.to_string()));
        let Effort { share: _, runs, seed } = effort;
        // Writing into a string cannot fail.
        let _ = write!(line, " --seed {seed} --runs {runs} --out {}", quote(directory));
        line
    }
}

/// A number of each run.
#[derive(Clone, Copy)]
pub struct Quantity {
    /// What it is, with its unit.
    pub label: &'static str,
    /// It, of a run; `None` if nothing was measured.
    pub of: fn(&Summary) -> Option<f64>,
    /// Of something that is counted among connections: what one of a single connection would be.
    /// Where none was seen, three of all are an upper bound (95 %: the rule of three).
    pub rare: Option<f64>,
}

/// A number of each 100 ms.
#[derive(Clone, Copy)]
pub struct Moment {
    /// What it is, with its unit.
    pub label: &'static str,
    /// It, of the same 100 ms of all runs.
    pub of: fn(&[&IntervalRow]) -> Option<f64>,
}

/// What a chart draws.
pub enum Kind {
    /// A quantity along each curve.
    Lines(Quantity),
    /// For each connect time how many connections were so fast, in percent.
    Distribution,
    /// For each connect time how many connections took longer.
    Tail,
    /// A number against time.
    Timeline(Moment),
    /// Parts of a whole, a bar for each scenario.
    Bars(Vec<Quantity>),
}

/// A figure of the page.
pub struct Chart {
    /// What it draws.
    pub kind: Kind,
    /// Which curves it draws.
    pub only: fn(&str) -> bool,
    /// Equal steps up multiply.
    pub logarithmic: bool,
    /// What is to be seen, without what came out.
    pub caption: &'static str,
}

/// The parameter that changes along curves, as an axis.
#[derive(Clone, Copy, Debug)]
pub struct Along {
    /// What it is, with its unit.
    pub label: &'static str,
    /// Multiplies the parameter, for another unit.
    pub scale: f64,
    /// Equal steps multiply.
    pub logarithmic: bool,
}

/// A statement, and whether this run bears it out.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The statement.
    pub statement: String,
    /// Whether it is so; `None` if what was measured does not tell.
    pub holds: Option<bool>,
    /// The numbers.
    pub evidence: String,
}

impl Finding {
    /// A statement with its numbers.
    pub fn new(statement: &str, holds: Option<bool>, evidence: impl Into<String>) -> Self {
        Self { statement: statement.to_owned(), holds, evidence: evidence.into() }
    }
}

/// What one wants to know, and what is simulated to find out.
pub struct Experiment {
    /// A word for it, for links and directories.
    pub id: &'static str,
    /// The question.
    pub title: &'static str,
    /// What is done, and how to read the figures. It does not say what came out.
    pub about: &'static str,
    /// Where the model says less than reality would.
    pub weak: &'static str,
    /// What is simulated.
    pub curves: Vec<Curve>,
    /// What changes along curves; `None` if each is a single scenario.
    pub along: Option<Along>,
    /// Its figures.
    pub charts: Vec<Chart>,
    /// What its tables show.
    pub tables: Vec<Quantity>,
    /// What came out.
    pub findings: fn(&Outcome) -> Vec<Finding>,
}

impl Experiment {
    /// Where the command of a curve writes to.
    pub fn directory(&self, curve: usize) -> String {
        format!("{}-{}", self.id, curve + 1)
    }

    /// Connect times of single connections are drawn.
    pub fn needs_times(&self) -> bool {
        self.charts.iter().any(|chart| matches!(chart.kind, Kind::Distribution | Kind::Tail))
    }

    /// Time is drawn.
    pub fn needs_intervals(&self) -> bool {
        self.charts.iter().any(|chart| matches!(chart.kind, Kind::Timeline(_)))
    }
}

/// All curves.
pub fn all(_: &str) -> bool {
    true
}

/// The column of tables for what changes along a curve.
pub fn column(over: &Axis) -> Result<String> {
    Ok(parameter(&over.key).map_err(|error| anyhow!(error))?.column())
}
