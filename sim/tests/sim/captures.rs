//! Captures of runs as Wireshark sees them, with the dissector of `proto-spec`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::common::{directory, run};

const DISSECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto-spec/clusterd.lua");

/// Says why tshark cannot be used, unless it can.
fn is_missing() -> bool {
    let Err(error) = Command::new("tshark").arg("--version").output() else { return false };
    // libtest captures what `eprintln!` says.
    drop(writeln!(std::io::stderr(), "skipped: needs the program tshark: {error}"));
    true
}

/// The frames of a capture that match, one line of fields for each.
fn select(capture: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-X", &format!("lua_script:{DISSECTOR}"), "-r"])
        .arg(capture)
        .args(["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"])
        .args(["-Y", filter, "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{filter}: {error}");
    assert!(!error.contains("Lua"), "{filter}: {error}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn tshark_reads_a_capture_and_finds_nothing_wrong() {
    if is_missing() {
        return;
    }
    let at = directory("captures");
    run(&at, &["run", "small.toml", "--seed", "4", "--out", "out", "--pcap"]);
    let capture = at.join("out/capture-4.pcap");
    let count = |filter: &str| select(&capture, filter, &["frame.number"]).len();
    let (all, claims) = (count("frame"), count("clusterd"));
    assert!(claims > 100, "{claims}");
    // Every frame is a segment or a claim, every checksum is right, nothing is cut or malformed.
    assert_eq!(count("tcp.checksum.status == \"Good\"") + claims, all);
    assert_eq!(count("ip.checksum.status == \"Good\""), all);
    assert_eq!(count("_ws.malformed"), 0);
    assert_eq!(count("clusterd && !(ip.ttl == 255)"), 0);
    assert_eq!(count("clusterd && eth.dst != 03:bf:0a:00:00:02"), 0);
}

#[test]
fn a_capture_tells_of_the_connections_of_the_table() {
    if is_missing() {
        return;
    }
    let at = directory("captured-connections");
    run(&at, &["run", "small.toml", "--seed", "4", "--out", "out", "--pcap"]);
    let capture = at.join("out/capture-4.pcap");
    let mut reader = csv::Reader::from_path(at.join("out/connections.csv")).unwrap();
    let columns = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(|record| record.unwrap()).collect();
    let column = |name: &str| columns.iter().position(|it| it == name).unwrap();
    let number = |row: &csv::StringRecord, name: &str| row[column(name)].parse::<u64>().unwrap();
    let first = rows[0][column("started_us")].parse::<f64>().unwrap() / 1e6;
    let syns = select(
        &capture,
        &format!("tcp.flags.syn == 1 && tcp.flags.ack == 0 && frame.time_relative >= {first}"),
        &["tcp.stream"],
    );
    let sent: u64 = rows.iter().map(|row| number(row, "syns")).sum();
    assert_eq!(syns.len() as u64, sent);
    let streams: BTreeSet<&str> = syns.iter().map(String::as_str).collect();
    assert_eq!(streams.len(), rows.len());
    // What belongs to these connections; a segment may be said again, so each counts once.
    let distinct = |filter: &str| {
        let frames = select(&capture, filter, &["tcp.stream", "eth.src"]);
        let stream = |frame: &String| frame.split('\t').next().unwrap().to_owned();
        let its = frames.into_iter().filter(|frame| streams.contains(stream(frame).as_str()));
        its.collect::<BTreeSet<String>>().len() as u64
    };
    let answers: u64 = rows.iter().map(|row| number(row, "answered_by")).sum();
    assert_eq!(distinct("tcp.flags.syn == 1 && tcp.flags.ack == 1"), answers);
    let served = rows.iter().filter(|row| &row[column("outcome")] == "served").count() as u64;
    assert_eq!(distinct("tcp.flags.fin == 1"), served);
}
