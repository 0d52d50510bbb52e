//! `clusterd-sim replay`: the recording of a real daemon through the core once more.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clusterd::recording::{self, Header, Reader, ReplayError, Replayed};

use super::{DIFFERENT, say};

/// Options of `replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// What `clusterd --record` has written
    #[arg(required = true)]
    recordings: Vec<PathBuf>,
}

/// Replays and compares.
pub fn execute(args: &ReplayArgs) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in &args.recordings {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("open the recording {name}"))?;
        let (header, mut reader) =
            Reader::open(BufReader::new(file)).with_context(|| name.to_string())?;
        match recording::replay(&header, &mut reader) {
            Ok(replayed) => say(format!("{name}: {}", describe(&header, &replayed)))?,
            Err(ReplayError::Differs(difference)) => {
                say(format!("{name}: {difference}"))?;
                if header.version != env!("CARGO_PKG_VERSION") {
                    say(format!("  (it was recorded by version {})", header.version))?;
                }
                code = ExitCode::from(DIFFERENT);
            }
            Err(ReplayError::Read(error)) => bail!("{name}: {error}"),
        }
    }
    Ok(code)
}

fn describe(header: &Header, replayed: &Replayed) -> String {
    let &Replayed { inputs, outputs, frames, waits, span, left, cut_off } = replayed;
    let node = header.config.node;
    let end = match (left, cut_off) {
        (true, _) => "",
        (false, false) => "; it ends before the daemon did",
        (false, true) => "; it ends within a record, as if the daemon had been killed",
    };
    format!(
        "node {node}, {:.3} s: {inputs} inputs, {outputs} outputs, {frames} frames and {waits} \
         waits, all identical{end}",
        span.as_secs_f64()
    )
}
