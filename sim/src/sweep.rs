//! A sweep: every combination of some values of some parameters, each run on the same seeds.
//!
//! Points are numbered in a fixed order, the last parameter changing first. Each finished point
//! is a file of its own, so a sweep can be interrupted, resumed, and divided among machines.

mod axis;
mod store;

use std::hash::Hasher;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

pub use axis::Axis;
pub use store::{Store, merge};

use crate::file;
use crate::scenario::{Scenario, parameter};

/// More points than this are a mistake.
const POINTS_MAX: u64 = 1_000_000;

/// What determines every number that a sweep gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Of this program.
    pub version: String,
    /// Seed of the first run of each point.
    pub seed: u64,
    /// Runs of each point.
    pub runs: u32,
    /// What is varied.
    pub over: Vec<Axis>,
    /// The scenario that is varied, with every parameter.
    pub scenario: String,
    /// A digest of all points, with the contents of the files that they name.
    pub digest: u64,
}

impl Sweep {
    /// A sweep of a scenario. All of its points are valid.
    pub fn new(scenario: &Scenario, over: Vec<Axis>, seed: u64, runs: u32) -> Result<Self> {
        for (number, axis) in over.iter().enumerate() {
            let double = over[..number].iter().any(|other| other.key == axis.key);
            ensure!(!double, "--over {}: given twice", axis.key);
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let mut sweep =
            Self { version, seed, runs, over, scenario: file::write(scenario), digest: 0 };
        let lengths = sweep.over.iter().map(|axis| axis.values.len() as u64);
        let points = lengths.fold(1, u64::saturating_mul);
        ensure!(points <= POINTS_MAX, "{points} points are more than {POINTS_MAX}");
        let mut digest = SipHasher24::new();
        for point in 0..sweep.points() {
            let scenario = sweep.scenario_at(scenario, point)?;
            digest.write(format!("{scenario:?}").as_bytes());
        }
        sweep.digest = digest.finish();
        Ok(sweep)
    }

    /// How many points it has.
    pub fn points(&self) -> usize {
        self.over.iter().map(|axis| axis.values.len()).product()
    }

    /// The values at a point, in the order of the axes.
    pub fn values_at(&self, point: usize) -> Vec<&str> {
        let mut rest = point;
        let values = self.over.iter().rev().map(|axis| {
            let length = axis.values.len();
            let value = axis.values[rest % length].as_str();
            rest /= length;
            value
        });
        let mut values: Vec<&str> = values.collect();
        values.reverse();
        values
    }

    /// The scenario at a point, made from the one that is varied.
    pub fn scenario_at(&self, base: &Scenario, point: usize) -> Result<Scenario> {
        let mut scenario = base.clone();
        for (axis, value) in self.over.iter().zip(self.values_at(point)) {
            scenario.set(&axis.key, value).map_err(|error| anyhow!("--over {error}"))?;
        }
        scenario.check().map_err(|error| anyhow!("{}: {error}", self.name_of(point)))?;
        Ok(scenario)
    }

    /// A point for people: its number and values.
    pub fn name_of(&self, point: usize) -> String {
        let values = self.over.iter().zip(self.values_at(point));
        let values: Vec<String> =
            values.map(|(axis, value)| format!("{}={value}", axis.key)).collect();
        format!("point {point} ({})", values.join(", "))
    }

    /// The columns of the swept parameters, with their units.
    pub fn columns(&self) -> Result<Vec<String>> {
        let column =
            |axis: &Axis| Ok(parameter(&axis.key).map_err(|error| anyhow!(error))?.column());
        self.over.iter().map(column).collect()
    }

    /// The cells of these columns.
    pub fn cells(&self, scenario: &Scenario) -> Result<Vec<String>> {
        let cell =
            |axis: &Axis| Ok(parameter(&axis.key).map_err(|error| anyhow!(error))?.cell(scenario));
        self.over.iter().map(cell).collect()
    }

    /// What is different in another sweep, in words; `None` if nothing is.
    fn difference(&self, other: &Self) -> Option<String> {
        let Self { version, seed, runs, over, scenario, digest } = self;
        if *version != other.version {
            return Some(format!("version {version} instead of {}", other.version));
        }
        if *seed != other.seed {
            return Some(format!("--seed {seed} instead of {}", other.seed));
        }
        if *runs != other.runs {
            return Some(format!("--runs {runs} instead of {}", other.runs));
        }
        if *over != other.over {
            let show = |over: &[Axis]| {
                let axes: Vec<String> = over.iter().map(Axis::to_string).collect();
                axes.join(" ")
            };
            return Some(format!("`{}` instead of `{}`", show(over), show(&other.over)));
        }
        // Both have the same lines but for their values, unless there are faults.
        let lines = scenario.lines().zip(other.scenario.lines());
        let different = lines.into_iter().find(|(mine, theirs)| mine != theirs);
        match different {
            Some((mine, theirs)) => Some(format!("`{mine}` instead of `{theirs}`")),
            None if *scenario != other.scenario => Some("another scenario".to_owned()),
            None if *digest != other.digest => {
                Some("other contents of the files that the scenario names".to_owned())
            }
            None => None,
        }
    }
}

/// One of several equal parts of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl Shard {
    /// The whole.
    pub const ALL: Shard = Shard { index: 0, of: 1 };

    /// Whether a point is in this part. Neighbours, which take about as long, are in different
    /// ones.
    pub fn has(self, point: usize) -> bool {
        point % self.of == self.index
    }
}

impl FromStr for Shard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wanted = || format!("`{text}` is no shard such as 0/4: K/N, K from 0 to N - 1");
        let (index, of) = text.split_once('/').with_context(wanted)?;
        let (index, of) =
            (index.parse().ok().with_context(wanted)?, of.parse().ok().with_context(wanted)?);
        ensure!(index < of, wanted());
        Ok(Self { index, of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep() -> Sweep {
        let over = ["cluster.hosts=2,3", "cluster.settle=100us..300us:100us"];
        let over = over.map(|text| text.parse().unwrap()).into();
        Sweep::new(&Scenario::default(), over, 1, 2).unwrap()
    }

    #[test]
    fn points_are_all_combinations_in_a_fixed_order() {
        let sweep = sweep();
        let points: Vec<String> =
            (0..sweep.points()).map(|point| sweep.values_at(point).join(" ")).collect();
        assert_eq!(points, ["2 100us", "2 200us", "2 300us", "3 100us", "3 200us", "3 300us"]);
        assert_eq!(sweep.name_of(4), "point 4 (cluster.hosts=3, cluster.settle=200us)");
        assert_eq!(sweep.columns().unwrap(), ["cluster.hosts", "cluster.settle_us"]);
        let scenario = sweep.scenario_at(&Scenario::default(), 4).unwrap();
        assert_eq!(sweep.cells(&scenario).unwrap(), ["3", "200"]);
    }

    #[test]
    fn every_point_is_in_exactly_one_shard() {
        for of in 1..8 {
            for point in 0..50 {
                let shards = (0..of).filter(|&index| Shard { index, of }.has(point));
                assert_eq!(shards.count(), 1, "point {point} of shards /{of}");
            }
        }
        assert_eq!("2/3".parse::<Shard>().unwrap(), Shard { index: 2, of: 3 });
        for text in ["3/3", "0/0", "1", "-1/3", "a/b", "1/2/3"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_point_that_cannot_be_is_named() {
        let mut scenario = Scenario::default();
        scenario.faults.push("2s kill h3".parse().unwrap());
        let over = vec!["cluster.hosts=3,2".parse().unwrap()];
        let error = Sweep::new(&scenario, over, 1, 1).unwrap_err().to_string();
        assert!(error.starts_with("point 1 (cluster.hosts=2): faults: `2s kill h3`"), "{error}");
        let twice = ["cluster.hosts=3", "cluster.hosts=2"].map(|text| text.parse().unwrap());
        assert!(Sweep::new(&Scenario::default(), twice.into(), 1, 1).is_err());
    }

    #[test]
    fn what_is_different_is_named() {
        let one = sweep();
        assert_eq!(one.difference(&one), None);
        let mut other = one.clone();
        other.seed = 7;
        assert_eq!(one.difference(&other).unwrap(), "--seed 1 instead of 7");
        let mut other = one.clone();
        other.scenario = other.scenario.replace("\"1Gbit\"", "\"10Mbit\"");
        let difference = one.difference(&other).unwrap();
        assert_eq!(difference, "`rate = \"1Gbit\"` instead of `rate = \"10Mbit\"`");
        let mut other = one.clone();
        other.over.pop();
        assert!(one.difference(&other).unwrap().contains("cluster.settle"));
    }
}
