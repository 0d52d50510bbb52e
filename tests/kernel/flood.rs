//! Clients during a flood of spoofed SYNs, as the lab measures it.

use serde_json::Value;

use crate::rig::{clusterd, skip, take_turn};

/// What is looked at is that the kernels take over, and that nobody is left without an
/// answer; how fast they get it is for the benchmark to say.
#[test]
fn clients_get_their_answers_during_a_flood() {
    let Some(_turn) = take_turn() else { return };
    let output = clusterd(&["lab", "flood", "--nodes", "2", "--seconds", "1", "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("exit status: 69") || stderr.contains("xtables match") {
        return skip(&stderr).unwrap_or_default();
    }
    assert!(output.status.success(), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("lab flood prints JSON");
    let figures = report["figures"].as_array().expect("figures");
    assert_eq!(figures.len(), 4);
    for figures in figures {
        let number = |name: &str| figures[name].as_f64().unwrap_or_default();
        for name in ["syns_sent_per_second", "syn_acks_to_spoofed_per_second", "attempts"] {
            assert!(number(name) > 0.0, "{name}: {report:#}");
        }
        let name = figures["contender"].as_str().expect("a name");
        assert_eq!(number("resident_mib") > 0.0, name.contains("clusterd"), "{report:#}");
        if !name.contains("claims") {
            assert_eq!(figures["succeeded_percent"], 100.0, "{report:#}");
        }
        if figures["by_kernel_per_second"] != Value::Null {
            assert!(number("by_kernel_per_second") > 0.0, "{report:#}");
            let multiplied = number("claim_frames_per_second") / number("syns_sent_per_second");
            assert!(multiplied < 0.5, "a flood is not for claims: {report:#}");
        }
    }
}
