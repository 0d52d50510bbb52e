//! What `clusterd lab run --record` has measured.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A recorded run: what of `lab.json` is compared, and the connections.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names say it, with their units")]
pub struct Lab {
    pub command: String,
    pub kernel: String,
    pub processors: u64,
    pub connections: u64,
    pub claims_per_connection: f64,
    pub second_syn_acks_per_100k: f64,
    pub syns_per_connection: f64,
    pub share_of_host: Vec<f64>,
    /// From first SYN to first SYN-ACK, of all connections, in nanoseconds, sorted.
    #[serde(skip)]
    pub connect: Vec<u64>,
}

impl Lab {
    /// Reads `lab.json` and `arrivals.csv` in a directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("lab.json");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("read {}; `clusterd lab run --record DIR` makes such a DIR", path.display())
        })?;
        let mut lab: Self =
            serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        let path = directory.join("arrivals.csv");
        let what = || format!("read {}", path.display());
        let mut reader = csv::Reader::from_path(&path).with_context(what)?;
        let column = reader.headers().with_context(what)?.iter().position(|it| it == "connect_us");
        let column = column.with_context(what).context("there is no column `connect_us`")?;
        for record in reader.records() {
            let record = record.with_context(what)?;
            let cell = record.get(column).unwrap_or_default();
            // Who was never answered has none.
            if !cell.is_empty() {
                let microseconds: f64 =
                    cell.parse().with_context(|| format!("`{cell}`")).with_context(what)?;
                lab.connect.push((microseconds * 1e3) as u64);
            }
        }
        ensure!(!lab.connect.is_empty(), "{}: nobody was connected", path.display());
        ensure!(
            lab.connect.len() as u64 <= lab.connections,
            "{}: {} connections, but lab.json has {}",
            path.display(),
            lab.connect.len(),
            lab.connections
        );
        lab.connect.sort_unstable();
        Ok(lab)
    }
}
