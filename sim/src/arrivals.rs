//! Recorded arrivals: when connections began, as `clusterd lab run --record` writes it.
//!
//! A CSV file with a column `time_us`: microseconds since the first one, in order. Other columns
//! are of no interest here.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The times of arrivals.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// In nanoseconds since the first one.
    times: Vec<u64>,
}

impl Trace {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("read the arrivals {}", path.display());
        let text = std::fs::read_to_string(path).with_context(what)?;
        Self::parse(&text).with_context(what)
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let column = reader.headers()?.iter().position(|name| name == "time_us");
        let column = column.context("there is no column `time_us`")?;
        let mut times = Vec::new();
        for (record, line) in reader.records().zip(2..) {
            let cell = record?.get(column).unwrap_or_default().to_owned();
            let at = || format!("line {line}: `{cell}`");
            let microseconds: f64 = cell.trim().parse().with_context(at)?;
            ensure!((0.0..1e12).contains(&microseconds), "{}: not a time", at());
            let time = (microseconds * 1e3) as u64;
            ensure!(times.last().is_none_or(|&last| last <= time), "{}: not in order", at());
            times.push(time);
        }
        ensure!(!times.is_empty(), "nothing has arrived");
        Ok(Self { times })
    }

    /// When so many have come before, in nanoseconds since the first one. `None` after the last.
    pub fn time(&self, number: usize) -> Option<u64> {
        self.times.get(number).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_columns_do_not_matter() {
        let trace = Trace::parse("client,time_us\na,0\nb,1.5\nb,1.5\nc,20\n").unwrap();
        let times: Vec<_> = (0..5).map(|number| trace.time(number)).collect();
        assert_eq!(times, [Some(0), Some(1_500), Some(1_500), Some(20_000), None]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("time,client\n0,a\n", "no column `time_us`"),
            ("time_us\n0\nten\n", "line 3: `ten`"),
            ("time_us\n5\n4\n", "line 3: `4`: not in order"),
            ("time_us\n-1\n", "line 2: `-1`: not a time"),
            ("time_us\n", "nothing has arrived"),
        ] {
            let error = format!("{:#}", Trace::parse(text).unwrap_err());
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
