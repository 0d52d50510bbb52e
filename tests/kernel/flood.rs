//! Clients during a flood of spoofed SYNs, as the lab measures it.

use serde_json::Value;

use crate::rig::{clusterd, skip, take_turn};

/// Slow enough for any machine: what is looked at is that everything is counted,
/// and that nobody is left without an answer.
#[test]
fn clients_get_their_answers_during_a_flood() {
    let Some(_turn) = take_turn() else { return };
    let output =
        clusterd(&["lab", "flood", "--nodes", "2", "--seconds", "1", "--rate", "500", "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("exit status: 69") || stderr.contains("xtables match") {
        return skip(&stderr).unwrap_or_default();
    }
    assert!(output.status.success(), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("lab flood prints JSON");
    let figures = report["figures"].as_array().expect("figures");
    assert_eq!(figures.len(), 4);
    for figures in figures {
        let positive = |name: &str| figures[name].as_f64() > Some(0.0);
        for name in ["syns_sent_per_second", "syn_acks_to_spoofed_per_second", "attempts"] {
            assert!(positive(name), "{name}: {report:#}");
        }
        assert_eq!(figures["succeeded_percent"], 100.0, "{report:#}");
        let by_daemon = figures["contender"].as_str().is_some_and(|name| name.contains("clusterd"));
        assert_eq!(positive("claim_frames_per_second"), by_daemon, "{report:#}");
        assert_eq!(positive("resident_mib"), by_daemon, "{report:#}");
    }
}
