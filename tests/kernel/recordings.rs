//! What a live daemon decides can be decided again from its recording, and what a lab has measured
//! can be simulated.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clusterd::recording::{self, Header, Reader, Replayed};
use serde_json::Value;

use crate::rig::{BINARY, clusterd, note, scratch, skip, take_turn};

/// A new directory of ours.
fn fresh(name: &str) -> PathBuf {
    let path = scratch(name);
    if path.exists() {
        fs::remove_dir_all(&path).expect("remove what an earlier test has left");
    }
    path
}

/// Runs a recorded lab, or prints why this machine cannot.
fn record(directory: &Path, options: &[&str]) -> Option<Value> {
    let path = directory.to_str().expect("a path of ours");
    let words = [&["lab", "run", "--nodes", "3", "--json", "--record", path], options].concat();
    let output = clusterd(&words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("exit status: 69") {
        return skip(&stderr);
    }
    let report = serde_json::from_slice(&output.stdout);
    Some(report.unwrap_or_else(|error| panic!("lab run {options:?}: {error}: {stderr}")))
}

fn replay(directory: &Path, host: usize) -> (Header, Replayed) {
    let path = directory.join(format!("h{host}.rec"));
    let mode = fs::metadata(&path).expect("a recording").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "it says who has connected");
    let file = BufReader::new(File::open(&path).expect("open a recording"));
    let (header, mut reader) = Reader::open(file).expect("a recording begins");
    let replayed = recording::replay(&header, &mut reader);
    (header, replayed.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[test]
fn live_daemons_are_replayed_identically() {
    let Some(_turn) = take_turn() else { return };
    let directory = fresh("recordings-faults");
    let connections = 2000;
    let options = ["--connections", "2000", "--claim-loss", "5%", "--kill", "h2@50%"];
    let Some(report) = record(&directory, &options) else { return };
    assert_eq!(report["connections"], connections);
    for host in 1..=3 {
        let (header, replayed) = replay(&directory, host);
        note(&format!("h{host}, node {}: {replayed:?}", header.config.node));
        assert_eq!(replayed.left, host != 2, "h2 was killed");
        let seen = if host == 2 { connections / 4 } else { connections };
        assert!(replayed.inputs > seen && replayed.outputs > seen && replayed.frames > 10);
    }
    fs::remove_dir_all(directory).expect("remove the recordings");
}

#[test]
fn a_recording_ends_at_its_limit_and_the_daemon_goes_on() {
    let Some(_turn) = take_turn() else { return };
    let directory = fresh("recordings-limit");
    let options = ["--connections", "1000", "--daemon-arg=--record-limit=64KiB"];
    let Some(report) = record(&directory, &options) else { return };
    assert_eq!(report["failed"], 0);
    for host in 1..=3 {
        let length = fs::metadata(directory.join(format!("h{host}.rec"))).expect("it").len();
        assert!((60 << 10..=64 << 10).contains(&length), "{length} bytes");
        let (_, replayed) = replay(&directory, host);
        assert!(!replayed.left && !replayed.cut_off, "{replayed:?}");
    }
    fs::remove_dir_all(directory).expect("remove the recordings");
}

/// The whole way: real kernels, their times, the simulator on them. What is compared here does
/// not depend on how busy this machine is.
#[test]
fn the_simulator_repeats_a_lab() {
    let simulator = Path::new(BINARY).with_file_name("clusterd-sim");
    if !simulator.exists() {
        return note("skipped: `cargo build --workspace` with the same profile makes clusterd-sim");
    }
    let Some(_turn) = take_turn() else { return };
    let directory = fresh("recordings-lab");
    let Some(_) = record(&directory, &["--connections", "1000", "--rate", "400"]) else { return };
    let mut command = Command::new(&simulator);
    let output = command.args(["validate", "--json"]).arg(&directory).output().expect("run it");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let comparison: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("validate: {error}: {stderr}"));
    let rows = comparison["rows"].as_array().expect("rows");
    assert_eq!(comparison["connections"], 1000);
    for row in rows {
        let figure = row["figure"].as_str().expect("a name");
        let timely = figure.starts_with("connect_");
        assert!(timely || row["within"] == true, "{row}");
        note(&format!("{figure}: lab {}, simulator {}", row["lab"], row["simulator"]));
    }
    assert_eq!(rows.len(), 13);
    fs::remove_dir_all(directory).expect("remove the recordings");
}
