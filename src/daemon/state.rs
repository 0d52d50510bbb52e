//! What a host remembers of its cluster between two starts of the daemon.
//!
//! One small file per virtual IP and node: the roster, without which a host that
//! starts while nobody hears each other would believe itself alone (spec 5.6),
//! and the incarnation, which must grow even if the clock is set back.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clusterd::flow::{NodeId, VipHash};
use clusterd::protocol;
use serde::{Deserialize, Serialize};

use crate::io::vip_name;

/// Longest file that is read; 64 members take about 4 KiB, with 63 further virtual IPs each 50 KiB.
const FILE_MAX: u64 = 64 * 1024;

/// Content of the file, as JSON.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Of the start that wrote this.
    pub incarnation: u64,
    /// The members of the cluster.
    pub roster: Vec<Member>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// When it was heard last, in seconds since 1970.
    pub heard: u64,
    /// The further virtual IPs that both it and this host answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<VipHash>,
}

/// The file of one virtual IP and node.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file in `directory`, which is made when something is kept.
    pub fn new(directory: &Path, vip: IpAddr, node: NodeId) -> Self {
        Self { path: directory.join(format!("{}-{node}.json", vip_name::spell(vip))) }
    }

    /// What was kept; nothing if there is no file. A file that cannot be understood is an
    /// error: it is the operator's to remove, for without it the host may believe itself alone.
    pub fn load(&self) -> Result<State> {
        let what = || format!("read what was kept of the cluster in {}", self.path.display());
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(error).with_context(what),
            Ok(metadata) if metadata.len() > FILE_MAX => {
                let error = io::Error::from(io::ErrorKind::FileTooLarge);
                return Err(error).with_context(what);
            }
            Ok(_) => {}
        }
        let text = fs::read(&self.path).with_context(what)?;
        serde_json::from_slice(&text).with_context(|| {
            format!("{}; if it is damaged, remove it while the other hosts run", what())
        })
    }

    /// Replaces what was kept. A crash leaves the old or the new content.
    pub fn save(&self, state: &State) -> io::Result<()> {
        let directory = self.path.parent().expect("the path was made by joining");
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        let unfinished = self.path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o644).open(&unfinished)?;
        serde_json::to_writer(&mut file, state)?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        fs::rename(&unfinished, &self.path)
    }
}

impl State {
    /// The members, and how long each had not been heard at `now`. A clock that was set
    /// back makes it zero: rather a member too many than one too few.
    pub fn members(&self, now: SystemTime) -> Vec<protocol::Member> {
        let member = |Member { node, heard, vips }: &Member| {
            let heard = UNIX_EPOCH.checked_add(Duration::from_secs(*heard)).unwrap_or(now);
            let unheard = now.duration_since(heard).unwrap_or_default();
            protocol::Member { node: *node, unheard, vips: vips.clone() }
        };
        self.roster.iter().map(member).collect()
    }

    /// The state to keep, of a roster with ages at `now`.
    pub fn new(incarnation: u64, roster: &[protocol::Member], now: SystemTime) -> Self {
        let member = |protocol::Member { node, unheard, vips }: &protocol::Member| {
            let heard = now.checked_sub(*unheard).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let heard = heard.unwrap_or_default().as_secs();
            Member { node: *node, heard, vips: vips.clone() }
        };
        Self { incarnation, roster: roster.iter().map(member).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again_and_nothing_else_is_left() {
        let directory = tempfile();
        let file = StateFile::new(&directory, [10, 0, 0, 2].into(), NodeId(7));
        assert_eq!(file.load().unwrap(), State::default());
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let member = |node, seconds, vips| {
            let unheard = Duration::from_secs(seconds);
            protocol::Member { node: NodeId(node), unheard, vips }
        };
        let roster = [member(1, 5, vec![]), member(2, 0, vec![VipHash(9)])];
        let state = State::new(9, &roster, now);
        file.save(&State::default()).unwrap();
        file.save(&state).unwrap();
        assert_eq!(file.load().unwrap(), state);
        assert_eq!(state.members(now), roster);
        let [first, second] = roster;
        let first = protocol::Member { unheard: Duration::ZERO, ..first };
        assert_eq!(state.members(UNIX_EPOCH), [first.clone(), second]);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        // A file of the version before.
        let before = r#"{"incarnation":1,"roster":[{"node":1,"heard":18446744073709551615}]}"#;
        fs::write(directory.join("10.0.0.2-00000007.json"), before).unwrap();
        assert_eq!(file.load().unwrap().members(now), [first]);

        fs::write(directory.join("10.0.0.2-00000007.json"), "{").unwrap();
        let error = format!("{:#}", file.load().unwrap_err());
        assert!(error.contains("10.0.0.2-00000007.json") && error.contains("remove it"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }

    fn tempfile() -> PathBuf {
        std::env::temp_dir().join(format!("clusterd-state-{}", std::process::id()))
    }
}
