//! `clusterd-sim merge`: the points of a sweep as one table.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clusterd_sim::sweep;

/// Options of `merge`.
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Directories that the shards of one sweep have written to
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// The table: one row for each run, in the order of points
    #[arg(long, value_name = "FILE.csv")]
    out: PathBuf,
}

/// Joins points; fails if one is missing or there twice.
pub fn execute(args: &MergeArgs) -> Result<ExitCode> {
    let points = sweep::merge(&args.directories, &args.out)?;
    // Not among the rows, if they went to standard output.
    let told = writeln!(io::stderr(), "{points} points in {}", args.out.display());
    // The table is complete also if nobody listens.
    drop(told);
    Ok(ExitCode::SUCCESS)
}
