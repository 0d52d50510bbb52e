//! The directory of a sweep: `sweep.json` says of which, `point-000012.csv` is a finished point.
//!
//! Files get their names once they are complete, so whatever has one is whole. Shards may share
//! a directory or have one each.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail, ensure};

use super::{Shard, Sweep};
use crate::output::figure_cells;
use crate::result::RunResult;
use crate::scenario::Scenario;
use crate::summary::FIGURES;

const MANIFEST: &str = "sweep.json";
/// So many points are named, and of more only the number is told.
const NAMED_MAX: usize = 10;

/// The directory of a sweep.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Makes the directory, or takes up the one of the same sweep.
    pub fn open(path: &Path, sweep: &Sweep) -> Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("make the directory {}", path.display()))?;
        let store = Self { path: path.to_owned() };
        if !path.join(MANIFEST).exists() {
            let text = serde_json::to_string_pretty(sweep).context("write down the sweep")?;
            store.write(MANIFEST, (text + "\n").as_bytes())?;
        }
        // Read back even if just written: another sweep may have been begun at the same moment.
        if let Some(difference) = sweep.difference(&read_manifest(path)?) {
            bail!(
                "{} holds another sweep: this one has {difference}; choose another directory for \
                 --out, or the options of the sweep to be resumed",
                path.display()
            );
        }
        Ok(store)
    }

    /// The points of a shard that are not there yet.
    pub fn missing(&self, sweep: &Sweep, shard: Shard) -> Result<Vec<usize>> {
        let done = points_in(&self.path)?;
        let its = (0..sweep.points()).filter(|&point| shard.has(point));
        Ok(its.filter(|point| !done.contains_key(point)).collect())
    }

    /// Adds a finished point: one row for each run.
    pub fn add(
        &self,
        sweep: &Sweep,
        point: usize,
        scenario: &Scenario,
        runs: &[RunResult],
    ) -> Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut columns = vec!["point".to_owned()];
        columns.extend(sweep.columns()?);
        columns.extend(["run", "seed"].map(str::to_owned));
        columns.extend(FIGURES.iter().map(|figure| figure.name.to_owned()));
        writer.write_record(&columns).context("write the columns of a point")?;
        let values = sweep.cells(scenario)?;
        for (number, run) in runs.iter().enumerate() {
            let mut cells = vec![point.to_string()];
            cells.extend(values.iter().cloned());
            cells.extend([number.to_string(), run.seed.to_string()]);
            cells.extend(figure_cells(run));
            writer.write_record(&cells).context("write the rows of a point")?;
        }
        let bytes = writer.into_inner().context("write the rows of a point")?;
        self.write(&point_name(point), &bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        replace(&self.path.join(name), |file| Ok(file.write_all(bytes)?))
    }
}

/// Writes a file under another name and gives it its own once all is on disk.
fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let at = || format!("write {}", path.display());
    let mut name = path.file_name().map(ToOwned::to_owned).with_context(at)?;
    name.push(format!(".{}.part", process::id()));
    let part = path.with_file_name(name);
    let mut file = File::create(&part).with_context(at)?;
    let written = write(&mut file).and_then(|()| Ok(file.sync_all()?));
    if let Err(error) = written {
        // The error is why; that the rest cannot be removed either would hide it.
        drop(fs::remove_file(&part));
        return Err(error.context(at()));
    }
    fs::rename(&part, path).with_context(at)
}

fn point_name(point: usize) -> String {
    format!("point-{point:06}.csv")
}

fn read_manifest(directory: &Path) -> Result<Sweep> {
    let path = directory.join(MANIFEST);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("read {}; is this a directory that `sweep --out` has made?", path.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

/// The finished points in a directory, and their files.
fn points_in(directory: &Path) -> Result<BTreeMap<usize, PathBuf>> {
    let at = || format!("list {}", directory.display());
    let mut points = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(at)? {
        let path = entry.with_context(at)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("point-").and_then(|rest| rest.strip_suffix(".csv"));
        if let Some(point) = number.and_then(|number| number.parse().ok()) {
            points.insert(point, path);
        }
    }
    Ok(points)
}

/// Joins the directories of one sweep into one table, in the order of points.
///
/// Returns the number of points. Nothing is written unless each is there exactly once.
pub fn merge(directories: &[PathBuf], out: &Path) -> Result<usize> {
    let (first, others) = directories.split_first().context("no directory to merge")?;
    let sweep = read_manifest(first)?;
    for other in others {
        if let Some(difference) = read_manifest(other)?.difference(&sweep) {
            bail!(
                "{} is of another sweep than {}: it has {difference}",
                other.display(),
                first.display()
            );
        }
    }
    let mut points = BTreeMap::new();
    let mut double = Vec::new();
    for directory in directories {
        for (point, path) in points_in(directory)? {
            ensure!(
                point < sweep.points(),
                "{}: the sweep has only {} points",
                path.display(),
                sweep.points()
            );
            if let Some(other) = points.insert(point, path.clone()) {
                let name = sweep.name_of(point);
                double.push(format!("{name} in {} and {}", other.display(), path.display()));
            }
        }
    }
    ensure!(double.is_empty(), "there twice:\n  {}", some_of(&double));
    let missing: Vec<String> = (0..sweep.points())
        .filter(|point| !points.contains_key(point))
        .map(|point| sweep.name_of(point))
        .collect();
    ensure!(
        missing.is_empty(),
        "{} of {} points are missing; run the same sweep again, it does only what is missing:\n  {}",
        missing.len(),
        sweep.points(),
        some_of(&missing)
    );
    let join = |file: &mut dyn Write| {
        let mut file = BufWriter::new(file);
        let mut columns = None;
        for path in points.values() {
            let text =
                fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            let (head, rows) = split_point(path, &text, sweep.runs, columns.as_deref())?;
            if columns.is_none() {
                file.write_all(head.as_bytes())?;
                columns = Some(head.to_owned());
            }
            file.write_all(rows.as_bytes())?;
        }
        Ok(file.flush()?)
    };
    // A pipe, a device or a link stays what it is.
    match fs::symlink_metadata(out) {
        Ok(there) if !there.is_file() => {
            // What is wrong with a point is found before anything is written.
            let mut table = Vec::new();
            join(&mut table)?;
            fs::write(out, table).with_context(|| format!("write {}", out.display()))?;
        }
        Ok(_) | Err(_) => replace(out, |file| join(file))?,
    }
    Ok(points.len())
}

/// The line of columns and the rows of a point.
fn split_point<'a>(
    path: &Path,
    text: &'a str,
    runs: u32,
    columns: Option<&str>,
) -> Result<(&'a str, &'a str)> {
    let (head, rows) = text.split_at(text.find('\n').map_or(text.len(), |end| end + 1));
    ensure!(
        columns.is_none_or(|columns| columns == head),
        "{}: other columns than in the other points; remove it and run the sweep again",
        path.display()
    );
    ensure!(
        rows.lines().count() == runs as usize,
        "{}: {} rows instead of {runs}; remove it and run the sweep again",
        path.display(),
        rows.lines().count()
    );
    Ok((head, rows))
}

fn some_of(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMED_MAX)].join("\n  ");
    if names.len() > NAMED_MAX {
        text += &format!("\n  and {} more", names.len() - NAMED_MAX);
    }
    text
}
