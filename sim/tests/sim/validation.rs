//! The simulator on what real kernels have done: `lab/rank` and `lab/loss` are what
//! `clusterd lab run --record` left behind, and `lab/faults.rec` is the recording of a daemon whose
//! peer was killed, with 5 % of the claims lost.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{directory, fail, run, start};
use serde_json::Value;

/// A copy of a recorded lab, to be changed.
fn lab(name: &str, test: &str) -> PathBuf {
    let to = directory(test).join("lab");
    fs::create_dir(&to).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab").join(name);
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to.parent().unwrap().to_owned()
}

fn recording() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/faults.rec")).unwrap()
}

/// Each figure of the simulator is within the band that is stated for it.
#[test]
fn labs_are_repeated_within_the_bands() {
    for name in ["rank", "loss"] {
        let at = lab(name, &format!("validate-{name}"));
        let printed = run(&at, &["validate", "lab", "--jobs", "1", "--out", "comparison.json"]);
        assert!(printed.contains("connect_p50_us") && !printed.contains("OUTSIDE"), "{printed}");
        let text = fs::read_to_string(at.join("comparison.json")).unwrap();
        let comparison: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&comparison["within"], &comparison["connections"]),
            (&true.into(), &1500.into())
        );
        let again = run(&at, &["validate", "lab", "--jobs", "2", "--json"]);
        assert_eq!(again, text, "the number of threads has no influence");
    }
}

#[test]
fn a_lab_that_saw_something_else_is_outside() {
    let at = lab("rank", "validate-other");
    let path = at.join("lab/lab.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut figures: Value = serde_json::from_str(&text).unwrap();
    figures["claims_per_connection"] = 2.0.into();
    fs::write(&path, figures.to_string()).unwrap();
    let output = start(&at, &["validate", "lab", "--runs", "2"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stdout).unwrap();
    let outside: Vec<_> = printed.lines().filter(|line| line.contains("OUTSIDE")).collect();
    assert_eq!(outside.len(), 1, "{printed}");
    assert!(outside[0].starts_with("claims_per_connection"), "{printed}");

    fs::remove_file(path).unwrap();
    assert!(fail(&at, &["validate", "lab"]).contains("lab run --record"));
}

/// Files are found beside the scenario, from wherever it is run, and also by what `--out` writes.
#[test]
fn a_recorded_scenario_runs_unchanged() {
    let at = lab("rank", "validate-run");
    let words = ["run", "lab/scenario.toml", "--out", "out", "--json"];
    let first: Value = serde_json::from_str(&run(&at, &words)).unwrap();
    assert_eq!(first["runs"][0]["figures"]["connections"], 1500.0, "{first}");
    let again: Value =
        serde_json::from_str(&run(&at, &["run", "out/scenario.toml", "--json"])).unwrap();
    assert_eq!(first["runs"], again["runs"]);
    // They begin when they began.
    let recorded = fs::read_to_string(at.join("lab/arrivals.csv")).unwrap();
    let simulated = fs::read_to_string(at.join("out/connections.csv")).unwrap();
    let column = |text: &str, name: &str| -> Vec<f64> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let at = reader.headers().unwrap().iter().position(|it| it == name).unwrap();
        reader.records().map(|record| record.unwrap()[at].parse().unwrap()).collect()
    };
    let (recorded, simulated) = (column(&recorded, "time_us"), column(&simulated, "started_us"));
    let shifted: Vec<f64> = recorded.iter().map(|time| 2e6 + time).collect();
    assert_eq!(shifted, simulated);

    fs::remove_file(at.join("lab/wake.hist")).unwrap();
    let error = fail(&at, &["run", "lab/scenario.toml"]);
    assert!(error.contains("scenario.toml:") && error.contains("wake.hist"), "{error}");
}

#[test]
fn a_daemon_is_replayed_identically() {
    let at = directory("replay");
    let whole = recording();
    fs::write(at.join("it.rec"), &whole).unwrap();
    let printed = run(&at, &["replay", "it.rec"]);
    assert!(printed.contains("1257 inputs, 313 outputs, 261 frames"), "{printed}");
    assert!(printed.trim_end().ends_with("all identical"), "{printed}");

    // One whose daemon was killed.
    fs::write(at.join("part.rec"), &whole[..whole.len() / 2]).unwrap();
    let printed = run(&at, &["replay", "part.rec"]);
    assert!(printed.contains("all identical; it ends within a record"), "{printed}");
}

#[test]
fn a_changed_recording_is_not() {
    let at = directory("replay-changed");
    // Another incarnation: what the node says of itself is not what it has said.
    let mut changed = recording();
    let header = clusterd::recording::Reader::open(&changed[..]).unwrap().0;
    let mut other = header.clone();
    other.config.incarnation += 1;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    clusterd::recording::write_header(&header, &mut before);
    clusterd::recording::write_header(&other, &mut after);
    assert!(changed.starts_with(&before) && before.len() == after.len());
    changed[..after.len()].copy_from_slice(&after);
    fs::write(at.join("it.rec"), changed).unwrap();
    let output = start(&at, &["replay", "it.rec"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stdout).unwrap();
    for word in ["another output after input", "recorded:", "replayed:"] {
        assert!(printed.contains(word), "{printed}");
    }

    fs::write(at.join("none.rec"), "arrivals").unwrap();
    assert!(fail(&at, &["replay", "none.rec"]).contains("none.rec: not a recording"));
}
