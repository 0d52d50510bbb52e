//! `clusterd verify` from the client of a lab.

use serde_json::Value;

use crate::rig::{Lab, VIP6, end, note};

/// Its exit code, and its report.
fn verify(lab: &Lab, options: &[&str]) -> (i32, Value) {
    let words = [&["clusterd", "verify", "--json"], options].concat();
    let output = lab.run("client", &words);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    note(&format!("{stdout}{stderr}"));
    let report = serde_json::from_str(&stdout).expect("a report in JSON");
    (output.status.code().expect("an exit code"), report)
}

fn kinds(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().map(|finding| finding["what"].as_str().expect("a kind")).collect()
}

#[test]
fn a_clean_cluster() {
    let Some(lab) = Lab::up(3, "rst") else { return };
    lab.settle();
    let (code, report) = verify(&lab, &["10.77.0.2:80", "--connections", "300"]);
    assert_eq!((code, &report["answered"]), (0, &300.into()), "{report}");
    let hosts = report["hosts"].as_array().expect("hosts");
    let macs: Vec<_> = hosts.iter().map(|host| host["mac"].as_str().expect("a MAC")).collect();
    assert_eq!(macs, ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"]);
    let sum: u64 = hosts.iter().map(|host| host["answered"].as_u64().expect("a number")).sum();
    assert_eq!(sum, 300);
    assert_eq!(report["wire"]["resets_by_client"], 0, "each was closed properly");

    // A port that nobody serves.
    let (code, report) = verify(&lab, &["10.77.0.2:81", "--connections", "20"]);
    assert_eq!((code, &report["refused"]), (3, &20.into()));
    assert_eq!(kinds(&report), ["refused"]);

    // An address that nobody has.
    let (code, report) = verify(&lab, &["10.77.0.9:80", "--connections", "20"]);
    assert_eq!((code, &report["tried"]), (3, &1.into()), "one is enough");
    assert_eq!(kinds(&report), ["unreachable"]);

    // A member answers itself.
    let output = lab.run("h1", &["clusterd", "verify", "10.77.0.2:80"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("run this on a client"), "{stderr}");

    let output = lab.run("client", &["clusterd", "verify", "10.77.0.2:80", "--connections", "20"]);
    let text = String::from_utf8_lossy(&output.stdout);
    note(&text);
    assert!(text.contains("20 answered") && text.ends_with("clean\n"), "{text}");
}

#[test]
fn a_cluster_of_ipv6() {
    let Some(lab) = Lab::up_with(3, &["--ipv6"]) else { return };
    lab.settle();
    let target = format!("[{VIP6}]:80");
    let (code, report) = verify(&lab, &[&target, "--connections", "300"]);
    assert_eq!((code, &report["answered"]), (0, &300.into()), "{report}");
    assert_eq!(report["wire"]["answering_hosts"], serde_json::json!({ "1": 300 }));
    assert_eq!(report["hosts"].as_array().map(Vec::len), Some(3));
}

#[test]
fn hosts_that_do_not_hear_each_other() {
    let options = ["--daemon-arg=--mode=claim"];
    let Some(lab) = Lab::up_with(3, &options) else { return };
    lab.lose_claims(true);
    let (code, report) = verify(&lab, &["10.77.0.2:80", "--connections", "200"]);
    assert_eq!(code, 3);
    assert!(kinds(&report).contains(&"duplicates"), "{report}");
    assert_eq!(report["answered"], 200, "the guard keeps the others silent");
    assert_eq!(report["wire"]["resets_by_hosts"], 0);
}

#[test]
fn a_dead_host_whose_share_waits() {
    let Some(lab) = Lab::up_with(3, &["--daemon-arg=--mode=hash"]) else { return };
    end(lab.daemon(2), libc::SIGKILL);
    let (code, report) = verify(&lab, &["10.77.0.2:80", "--connections", "100"]);
    assert_eq!((code, &report["answered"]), (3, &100.into()), "{report}");
    assert_eq!(kinds(&report), ["misses"]);
    assert_eq!(report["hosts"].as_array().map(Vec::len), Some(2));
}

#[test]
fn behind_a_router() {
    let Some(lab) = Lab::up_with(3, &["--topology", "router", "--mac", "stealth"]) else { return };
    let (code, report) = verify(&lab, &["10.77.0.2:80", "--connections", "100"]);
    assert_eq!((code, &report["answered"]), (0, &100.into()), "{report}");
    assert_eq!(report["router"], "10.78.0.1");
    assert_eq!(report["shares_by"], "nothing_behind_router");
    for host in 1..=3 {
        end(lab.daemon(host), libc::SIGTERM);
    }
    // The router still knows the MAC, or does not.
    let (code, report) = verify(&lab, &["10.77.0.2:80", "--timeout", "100ms"]);
    assert_eq!((code, &report["answered"]), (3, &0.into()), "{report}");
    assert!(report["tried"].as_u64() < Some(100), "it gives up early");
}
