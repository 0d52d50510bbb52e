//! The dissector of `proto-spec/clusterd.lua` on a capture of real daemons: it and they
//! were written apart, so that they agree says something about both.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::Value;

use crate::rig::{PORT, VIP, clusterd, note, scratch, skip, take_turn};
use crate::tshark;

#[test]
fn frames_of_the_lab_are_dissected_as_the_lab_counts_them() {
    if tshark::is_missing() {
        return;
    }
    let Some(_turn) = take_turn() else { return };
    let capture = scratch("dissector.pcap");
    let path = capture.to_str().expect("UTF-8");
    let options = "--nodes 3 --connections 1000 --concurrency 16 --pcap";
    let mut words = vec!["lab", "run", "--json"];
    words.extend(options.split(' ').chain([path]));
    let output = clusterd(&words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("exit status: 69") {
        skip::<()>(&stderr);
        return;
    }
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("lab run: {error}: {stderr}"));
    assert_eq!(report["wire"]["frames_lost"], 0, "the capture saw everything");
    let frames: Vec<Value> =
        tshark::dissect(&capture).into_iter().filter(Value::is_object).collect();
    check_frames(&frames);
    check_counts(&frames, &report);
    check_attempts(&frames, &report, &capture);
    fs::remove_file(&capture).expect("remove the capture");
}

fn check_frames(frames: &[Value]) {
    for frame in frames {
        assert_eq!(frame.get("clusterd.refused"), None, "{frame:#}");
        assert_eq!(frame["clusterd.tag.status"], "verified", "{frame:#}");
    }
    // The switch floods them all to the client, though processors may swap two: then
    // there is a gap first, and what was missing comes late.
    let missing: u64 =
        frames.iter().filter_map(|it| it.get("clusterd.gap")).map(tshark::number).sum();
    let late = frames.iter().filter(|it| it.get("clusterd.repeated").is_some()).count();
    assert!(missing <= late as u64, "{missing} frames missing, {late} late");
    let nodes: BTreeSet<_> = frames.iter().map(|frame| frame["clusterd.node"].as_str()).collect();
    assert_eq!(nodes.len(), 3);
}

fn check_counts(frames: &[Value], report: &Value) {
    let claims = &report["wire"]["claims"];
    let count = |kind| entries(frames, kind).count();
    assert_eq!(claims["frames"], frames.len());
    assert_eq!(claims["undecodable"], 0);
    assert_eq!(claims["claim_entries"], count("1"));
    assert_eq!(claims["own_entries"], count("2"));
    assert_eq!(claims["release_entries"], count("3"));
    assert_eq!(claims["hello_entries"], count("4"));
    note(&format!("{} frames, {} OWN", frames.len(), count("2")));
}

/// Every connection has one attempt, whose id is that of its SYN (spec 4.2) and whose
/// owner says so.
fn check_attempts(frames: &[Value], report: &Value, capture: &Path) {
    let attempt = |entry: &Value| {
        tshark::unhex(&entry["clusterd.attempt"].as_str().expect("an attempt").replace(':', ""))
    };
    let owned: BTreeSet<Vec<u8>> = entries(frames, "2").map(attempt).collect();
    let key = tshark::unhex(frames[0]["clusterd.public_key"].as_str().expect("a key"));
    let filter = format!("tcp.flags.syn == 1 and tcp.flags.ack == 0 and ip.dst == {VIP}");
    let fields = "-T fields -e ip.src -e tcp.srcport -e tcp.seq_raw";
    let mut options = vec!["-Y", &filter];
    options.extend(fields.split(' '));
    let syns = tshark::run(capture, &options);
    let opened: BTreeSet<Vec<u8>> = syns.lines().map(|syn| attempt_id(&key, syn)).collect();
    assert_eq!(report["connections"], opened.len(), "{report:#}");
    let silent = opened.difference(&owned).count();
    assert_eq!(silent, 0, "attempts of which nobody said OWN");
    // The lab's first connection, made before the capture began, may still be under way.
    assert!(owned.difference(&opened).count() <= 1);
}

/// The id of the attempt that a SYN opens: client address, port and sequence number.
fn attempt_id(key: &[u8], syn: &str) -> Vec<u8> {
    let words: Vec<&str> = syn.split('\t').collect();
    let [client, port, isn] = words[..] else { panic!("not a SYN: {syn}") };
    let client: Ipv4Addr = client.parse().expect("an address");
    let port: u16 = port.parse().expect("a port");
    let isn: u32 = isn.parse().expect("a sequence number");
    let mut bytes = vec![4, 6];
    bytes.extend(client.octets());
    bytes.extend(VIP.octets());
    bytes.extend(port.to_be_bytes());
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(isn.to_be_bytes());
    tshark::siphash(key, &bytes).to_vec()
}

fn entries<'a>(frames: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let entries = frames.iter().flat_map(|frame| tshark::all(frame, "clusterd.entry"));
    entries.filter(move |entry| entry["clusterd.kind"] == kind)
}
