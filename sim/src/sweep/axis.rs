//! What `--over` says: a parameter and its values.
//!
//! ```text
//! cluster.rule=clusterd,original        values, separated by commas
//! cluster.settle=0s..1ms:100us          from, to (itself a value), step
//! cluster.hosts=2..64*2                 from, to, factor
//! cluster.hosts=2..8:1,16,32            any of these together
//! service.speeds=8;8,4;8,4,2            separated by semicolons, as values have commas
//! service.speeds=8,4;                   a single one that has
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::scenario::{Parameter, Scenario, parameter};

/// More values than this are a mistake.
const VALUES_MAX: f64 = 100_000.0;

/// A parameter and the values that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// The key of the parameter.
    pub key: String,
    /// Its values as a scenario has them, in the order given.
    pub values: Vec<String>,
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, list) =
            text.split_once('=').ok_or_else(|| format!("`{text}`: wanted KEY=VALUES"))?;
        let parameter = parameter(key)?;
        let separator = if list.contains(';') { ';' } else { ',' };
        let words = list.strip_suffix(separator).unwrap_or(list).split(separator);
        let mut values: Vec<String> = Vec::new();
        for word in words.map(str::trim) {
            let range = Range::parse(parameter, word).map_err(|error| format!("{key}: {error}"))?;
            for value in range.unwrap_or_else(|| vec![word.to_owned()]) {
                let mut scenario = Scenario::default();
                scenario.set(key, &value)?;
                // However it was written, a value has one name.
                let value = (parameter.show)(&scenario);
                if values.contains(&value) {
                    return Err(format!("{key}: {value} is there twice"));
                }
                values.push(value);
            }
        }
        Ok(Self { key: key.to_owned(), values })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commas = self.values.iter().any(|value| value.contains(','));
        let separator = if commas { ";" } else { "," };
        write!(f, "{}={}", self.key, self.values.join(separator))?;
        // The only separator tells commas of a value from those between values.
        f.write_str(if commas && self.values.len() == 1 { ";" } else { "" })
    }
}

/// Numbers from one to another, both among them if the steps allow it.
struct Range {
    from: f64,
    to: f64,
    step: Step,
}

enum Step {
    By(f64),
    Times(f64),
}

impl Range {
    /// The values of a range; `None` if the text is none.
    fn parse(parameter: &Parameter, text: &str) -> Result<Option<Vec<String>>, String> {
        let Some((from, rest)) = text.split_once("..") else { return Ok(None) };
        let number = |text: &str| (parameter.read_number)(text.trim());
        // Two dots may be part of the name of a file.
        let Ok(Some(from)) = number(from) else { return Ok(None) };
        let number = |text: &str| {
            number(text)?.ok_or_else(|| format!("`{text}` is not a number, as a range needs"))
        };
        let (to, step) = match (rest.split_once(':'), rest.split_once('*')) {
            (Some((to, step)), None) => (number(to)?, Step::By(number(step)?)),
            (None, Some((to, factor))) => {
                let times = factor.trim().parse();
                (number(to)?, Step::Times(times.map_err(|_| format!("`{factor}` is no factor"))?))
            }
            (None, None) | (Some(_), Some(_)) => {
                return Err(format!("`{text}`: wanted FROM..TO:STEP or FROM..TO*FACTOR"));
            }
        };
        let values =
            Self { from, to, step }.numbers().map_err(|error| format!("`{text}`: {error}"))?;
        let show = |number: f64| {
            (parameter.show_number)(number)
                .ok_or_else(|| format!("`{text}`: {number} is not {}", parameter.kind))
        };
        values.into_iter().map(show).collect::<Result<_, _>>().map(Some)
    }

    fn numbers(&self) -> Result<Vec<f64>, String> {
        let Self { from, to, ref step } = *self;
        if to < from {
            return Err("it ends before it begins".to_owned());
        }
        // A little more, as the end may be missed by what rounding leaves.
        let steps = 1e-9
            + match *step {
                Step::By(step) if step > 0.0 => (to - from) / step,
                Step::By(_) => return Err("the step must be greater than 0".to_owned()),
                Step::Times(factor) if factor > 1.0 && from > 0.0 => (to / from).ln() / factor.ln(),
                Step::Times(_) => {
                    return Err("it must begin above 0, and the factor must be above 1".to_owned());
                }
            };
        if steps >= VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} values"));
        }
        let number = |index: i32| match *step {
            Step::By(step) => from + step * f64::from(index),
            Step::Times(factor) => from * factor.powi(index),
        };
        Ok((0..=steps as i32).map(|index| rounded(number(index))).collect())
    }
}

/// To twelve digits: 0.1 + 0.2 is 0.3 to whoever writes a range.
fn rounded(number: f64) -> f64 {
    format!("{number:.11e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_lists_and_ranges() {
        for (text, values) in [
            ("cluster.rule=clusterd,original", "clusterd|original"),
            ("cluster.settle=0s..400us:100us", "0s|100us|200us|300us|400us"),
            ("cluster.settle=500us..2ms:500us", "500us|1ms|1ms500us|2ms"),
            ("cluster.hosts=2..64*2", "2|4|8|16|32|64"),
            ("cluster.hosts=2..4:1, 16", "2|3|4|16"),
            ("cluster.hosts=2..9:3", "2|5|8"),
            ("network.loss=0.1%..0.5%:0.1%", "0.001|0.002|0.003|0.004|0.005"),
            ("network.loss=0.0001..10%*10", "0.0001|0.001|0.01|0.1"),
            ("network.rate=10Mbit..1Gbit*10", "10Mbit|100Mbit|1Gbit"),
            ("network.rate=1Mbit..2Mbit:500kbit", "1Mbit|1.5Mbit|2Mbit"),
            ("load.connections_per_second=0.1..0.5:0.2", "0.1|0.3|0.5"),
            ("service.speeds=8;8,4;8,4,2", "8|8,4|8,4,2"),
            ("service.speeds=8,4;", "8,4"),
            ("service.speeds=8,4", "8|4"),
            ("service.time=exp 1ms,pareto 1ms 1.5", "exp 1ms|pareto 1ms 1.5"),
            ("host.wake=6us + 0.1% exp 300us; 6us", "6us + 0.1% exp 300us|6us"),
        ] {
            let axis: Axis = text.parse().unwrap();
            assert_eq!(axis.values.join("|"), values, "{text}");
            assert_eq!(axis.to_string().parse::<Axis>().unwrap(), axis, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("cluster.hosts", "wanted KEY=VALUES"),
            ("cluster.host=1,2", "did you mean `cluster.hosts`?"),
            ("cluster.hosts=1,99", "cluster.hosts: 99 is not between 1 and 64"),
            ("cluster.hosts=60..70:5", "65 is not between 1 and 64"),
            ("cluster.hosts=2,02", "2 is there twice"),
            ("cluster.hosts=2..8", "wanted FROM..TO:STEP or FROM..TO*FACTOR"),
            ("cluster.hosts=8..2:1", "ends before it begins"),
            ("cluster.hosts=2..8:0", "greater than 0"),
            ("cluster.hosts=2..8*1", "factor must be above 1"),
            ("cluster.hosts=2..8*1.5", "4.5 is not a whole number"),
            ("cluster.settle=0s..1s:1ns", "more than 100000 values"),
            ("cluster.settle=1ms..x:1ms", "`x` is no time"),
            ("service.time=1ms..5ms:1ms", "service.time: "),
            ("cluster.hosts=", "is not a whole number"),
        ] {
            let error = text.parse::<Axis>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
