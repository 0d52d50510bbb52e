//! The directory that a `run` leaves behind, and its figures as JSON.
//!
//! What is in which column is described in `sim/README.md`.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};

use crate::file;
use crate::pcap::Capture;
use crate::replication::Replication;
use crate::result::{ConnectionRow, Details, HostRow, IntervalRow, Row, RunResult, cell};
use crate::scenario::Scenario;
use crate::statistics::Estimate;
use crate::summary::FIGURES;
use crate::trace::Trace;

/// The first columns of every table: to which run a row belongs.
const RUN_COLUMNS: [&str; 3] = ["variant", "run", "seed"];

const SUMMARY: &str = "summary.json";

/// The directory of a `run`.
pub struct Directory {
    path: PathBuf,
    runs: Table,
    connections: Table,
    hosts: Table,
    intervals: Table,
}

impl Directory {
    /// Makes it, or takes the place of what an earlier run has left there.
    pub fn create(path: &Path, scenario: &Scenario) -> Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("make the directory {}", path.display()))?;
        // It comes last: where it is, the rest is complete.
        let summary = path.join(SUMMARY);
        if summary.exists() {
            fs::remove_file(&summary).with_context(|| format!("remove {}", summary.display()))?;
        }
        remove_recordings(path)?;
        let resolved = path.join("scenario.toml");
        fs::write(&resolved, file::write(scenario))
            .with_context(|| format!("write {}", resolved.display()))?;
        let figures: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        Ok(Self {
            runs: Table::create(path, "runs.csv", &figures)?,
            connections: Table::create(path, "connections.csv", ConnectionRow::COLUMNS)?,
            hosts: Table::create(path, "hosts.csv", HostRow::COLUMNS)?,
            intervals: Table::create(path, "timeseries.csv", IntervalRow::COLUMNS)?,
            path: path.to_owned(),
        })
    }

    /// Adds a run.
    pub fn add(
        &mut self,
        variant: &str,
        number: usize,
        run: &RunResult,
        details: &Details,
    ) -> Result<()> {
        let key = [variant.to_owned(), number.to_string(), run.seed.to_string()];
        self.runs.write(&key, figure_cells(run))?;
        self.connections.write_rows(&key, &details.connections)?;
        self.hosts.write_rows(&key, &details.hosts)?;
        self.intervals.write_rows(&key, &details.intervals)
    }

    /// The end: all tables are on disk, and with them what they come to.
    pub fn finish(self, report: &Report<'_>) -> Result<()> {
        for table in [self.runs, self.connections, self.hosts, self.intervals] {
            table.finish()?;
        }
        let path = self.path.join(SUMMARY);
        let text = report.to_json()? + "\n";
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// The cells of a run in the order of [`FIGURES`].
pub fn figure_cells(run: &RunResult) -> impl Iterator<Item = String> {
    FIGURES.iter().map(|figure| cell((figure.of)(&run.summary)))
}

/// A CSV file.
struct Table {
    path: PathBuf,
    writer: csv::Writer<File>,
}

impl Table {
    fn create(directory: &Path, name: &str, columns: &[&str]) -> Result<Self> {
        let path = directory.join(name);
        let file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
        let mut table = Self { path, writer: csv::Writer::from_writer(file) };
        table.write(&RUN_COLUMNS, columns.iter().copied())?;
        Ok(table)
    }

    fn write<T: AsRef<[u8]>>(&mut self, key: &[T], cells: impl Iterator<Item = T>) -> Result<()> {
        let at = || format!("write {}", self.path.display());
        for cell in key {
            self.writer.write_field(cell).with_context(at)?;
        }
        for cell in cells {
            self.writer.write_field(cell).with_context(at)?;
        }
        self.writer.write_record(None::<&[u8]>).with_context(at)
    }

    fn write_rows<R: Row>(&mut self, key: &[String], rows: &[R]) -> Result<()> {
        rows.iter().try_for_each(|row| self.write(key, row.cells().into_iter()))
    }

    fn finish(mut self) -> Result<()> {
        self.writer.flush().with_context(|| format!("write {}", self.path.display()))
    }
}

/// Recordings of an earlier run would pass for those of this one. What is not named by a seed is none.
fn remove_recordings(directory: &Path) -> Result<()> {
    let at = || format!("remove earlier recordings from {}", directory.display());
    for entry in fs::read_dir(directory).with_context(at)? {
        let path = entry.with_context(at)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let trace = name.strip_prefix("trace-").and_then(|rest| rest.strip_suffix(".jsonl"));
        let capture = name.strip_prefix("capture-").and_then(|rest| rest.strip_suffix(".pcap"));
        if trace.or(capture).is_some_and(|seed| seed.parse::<u64>().is_ok()) {
            fs::remove_file(&path).with_context(at)?;
        }
    }
    Ok(())
}

/// What is written down of a run beside its tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recordings {
    /// The event trace.
    pub trace: bool,
    /// The capture.
    pub pcap: bool,
}

/// The open files of [`Recordings`].
pub type Recorders = (Option<Trace<BufWriter<File>>>, Option<Capture<BufWriter<File>>>);

impl Recordings {
    /// Begins the files of one run. `variant` is its number; the scenario as it is has 0.
    pub fn begin(
        self,
        scenario: &Scenario,
        directory: &Path,
        variant: usize,
        seed: u64,
    ) -> Result<Recorders> {
        let open = |name: &str, ending: &str| {
            let variant = if variant == 0 { String::new() } else { format!("-variant{variant}") };
            let path = directory.join(format!("{name}-{seed}{variant}.{ending}"));
            let file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
            anyhow::Ok(BufWriter::new(file))
        };
        Ok((
            self.trace
                .then(|| {
                    Ok::<_, anyhow::Error>(Trace::new(open("trace", "jsonl")?, scenario.hosts))
                })
                .transpose()?,
            self.pcap.then(|| open("capture", "pcap").map(Capture::new)).transpose()?,
        ))
    }
}

/// The end of the files of one run.
pub fn finish((trace, capture): Recorders) -> Result<()> {
    trace.map_or(Ok(()), Trace::finish).context("write the trace")?;
    capture.map_or(Ok(()), Capture::finish).context("write the capture")
}

/// All runs of a command and what they come to, as JSON.
#[derive(Serialize)]
pub struct Report<'a> {
    /// The command that gives the same again.
    pub command: String,
    /// Of this program.
    pub version: &'static str,
    runs: Vec<RunView<'a>>,
    means: Map<Map<Option<Estimate>>>,
    /// Of each variant against the scenario as it is.
    #[serde(skip_serializing_if = "Map::is_empty")]
    differences: Map<Map<Option<Estimate>>>,
}

#[derive(Serialize)]
struct RunView<'a> {
    variant: &'a str,
    run: usize,
    seed: u64,
    figures: Map<Option<f64>>,
    share_of_host: &'a [f64],
}

impl<'a> Report<'a> {
    /// The first replication is the scenario as it is.
    pub fn new(command: String, replications: &'a [Replication]) -> Self {
        let runs = replications.iter().flat_map(|replication| {
            replication.runs.iter().enumerate().map(|(number, run)| RunView {
                variant: &replication.variant,
                run: number,
                seed: run.seed,
                figures: Map(FIGURES
                    .iter()
                    .map(|figure| (figure.name.to_owned(), (figure.of)(&run.summary)))
                    .collect()),
                share_of_host: &run.summary.share_of_host,
            })
        });
        let named = |figures: Vec<(&crate::summary::Figure, Option<Estimate>)>| {
            Map(figures.into_iter().map(|(figure, it)| (figure.name.to_owned(), it)).collect())
        };
        let means = replications
            .iter()
            .map(|it| (it.variant.clone(), named(it.each_figure(Replication::estimate))));
        let differences = replications.split_first().map_or_else(Vec::new, |(base, variants)| {
            let difference = |it: &Replication| {
                let figures = it.each_figure(|it, figure| it.difference(base, figure));
                (it.variant.clone(), named(figures))
            };
            variants.iter().map(difference).collect()
        });
        Self {
            command,
            version: env!("CARGO_PKG_VERSION"),
            runs: runs.collect(),
            means: Map(means.collect()),
            differences: Map(differences),
        }
    }

    /// As one object.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("write the figures")
    }
}

/// A JSON object whose keys keep their order.
struct Map<T>(Vec<(String, T)>);

impl<T> Map<T> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Serialize> Serialize for Map<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}
