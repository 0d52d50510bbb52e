//! The cluster's secret: its file, its rollout, and those who do not have it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::PathBuf;
use std::time::Instant;

use clusterd::flow::{ClusterKey, FlowKey, NodeId};
use clusterd::wire::{self, Contest, Entry, Frame, Header, KeyRing, TTL};
use serde_json::Value;

use crate::answers::Answers;
use crate::load::{Load, failures};
use crate::rig::{Lab, PORT, VIP, note, scratch, wait_until};
use crate::sender::{CLIENT, Sender};

/// Exit code of arguments that do not fit the host.
const CONFIG: i32 = 78;

/// A file that goes with the test.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(name: &str, mode: u32, text: &str) -> Self {
        let path = scratch(&format!("{}-{name}.key", std::process::id()));
        drop(fs::remove_file(&path));
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(mode).open(&path).expect("create");
        file.write_all(text.as_bytes()).expect("write a key file");
        Self(path)
    }

    /// With secrets made of one repeated byte each.
    fn with(name: &str, secrets: &[u8]) -> Self {
        let lines: String =
            secrets.iter().map(|byte| format!("{byte:02x}").repeat(32) + "\n").collect();
        Self::new(name, 0o600, &lines)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn counter(lab: &Lab, host: usize, group: &str, name: &str) -> u64 {
    lab.status(host)[group][name].as_u64().expect("a counter")
}

fn await_peers(lab: &Lab, host: usize, count: usize) {
    wait_until("the host ranks as many peers", || {
        lab.status(host)["peers"].as_array().map(Vec::len) == Some(count)
    });
}

#[test]
fn a_key_file_that_others_may_use_or_that_holds_no_secret_is_refused() {
    let Some(lab) = Lab::bare() else { return };
    let secret = "5a".repeat(32);
    let foreign = KeyFile::new("foreign", 0o600, &secret);
    chown(&foreign.0, Some(1_000), None).expect("give a file away");
    let cases = [
        (KeyFile::new("group", 0o640, &secret), "mode 0640"),
        (KeyFile::new("world", 0o644, &secret), "chmod 0600"),
        (foreign, "belongs to user 1000"),
        (KeyFile::new("empty", 0o600, "# nothing\n"), "no secret"),
        (KeyFile::new("short", 0o600, "5a5a\n"), "line 1 is not 64 hexadecimal digits"),
        (KeyFile::with("three", &[1, 2, 3]), "3 secrets, at most 2"),
    ];
    let start = |path: &str| {
        let words = ["clusterd", "eth0", &VIP.to_string(), "--no-state", "--key-file", path];
        lab.run("h1", &words)
    };
    for (file, why) in &cases {
        let output = start(file.path());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(CONFIG), "{stderr}");
        assert!(stderr.contains(why) && stderr.contains(file.path()), "{stderr}");
        assert!(!stderr.contains(&secret), "it is not for the log");
    }
    let output = start("/nowhere/key");
    assert_eq!(output.status.code(), Some(CONFIG));
    // Nothing was installed for it.
    assert_eq!(lab.shell("h1", "nft list tables"), "");
}

#[test]
fn a_cluster_without_a_key_says_so() {
    let Some(lab) = Lab::up(1, "rst") else { return };
    assert!(lab.log(1).contains("no key"), "{}", lab.log(1));
}

/// Everybody else's connections are answered while a host without the right key is ignored.
#[test]
fn a_host_with_another_key_or_none_is_ignored() {
    let (ours, theirs) = (KeyFile::with("ours", &[1]), KeyFile::with("theirs", &[2]));
    let argument = format!("--daemon-arg=--key-file={}", ours.path());
    let Some(lab) = Lab::up_with(3, &[&argument]) else { return };
    assert!(!lab.log(1).contains("no key"));
    for options in [&["--key-file", theirs.path()][..], &[]] {
        lab.replace_daemon(3, libc::SIGTERM, options);
        [1, 2].iter().for_each(|&host| await_peers(&lab, host, 1));
        let refused = counter(&lab, 1, "wire", "tag");
        wait_until("its frames are refused", || counter(&lab, 1, "wire", "tag") > refused);
        // It believes that it is alone and answers too; clients come to no harm.
        (0..20).for_each(|_| drop(lab.who().expect("connections go on")));
        assert_eq!(lab.status(3)["peers"].as_array().map(Vec::len), Some(0));
    }
    lab.replace_daemon(3, libc::SIGTERM, &["--key-file", ours.path()]);
    lab.settle();
}

/// Takes the hosts from each step to the next, one by one under load: nothing may fail.
fn roll(steps: &[Vec<String>]) {
    let (first, rest) = steps.split_first().expect("a step");
    // Two cores are too few for the load and two hosts: a long slot keeps that out of it.
    let slot = "--slot=15ms";
    let first: Vec<_> = first.iter().map(|word| format!("--daemon-arg={word}")).collect();
    let first: Vec<_> = first.iter().map(String::as_str).collect();
    let slot_argument = format!("--daemon-arg={slot}");
    let Some(lab) = Lab::up_with(2, &[&first[..], &[&slot_argument]].concat()) else { return };
    let begin = Instant::now();
    let (answers, load) = (Answers::listen(&lab), Load::start(&lab));
    for step in rest {
        for host in [1, 2] {
            let words: Vec<_> = step.iter().map(String::as_str).chain([slot]).collect();
            lab.replace_daemon(host, libc::SIGTERM, &words);
            lab.settle();
        }
    }
    let attempts = load.finish();
    let (failed, _) = failures(&attempts, begin);
    let seen = answers.finish();
    note(&format!("{} connections, {} second SYN-ACKs", attempts.len(), seen.second_syn_acks()));
    assert!(failed.is_empty(), "{failed:#?}");
    for host in [1, 2] {
        let status = lab.status(host);
        assert_eq!(status["wire"]["tag"], 0, "all believed each other all the time: {status}");
    }
}

fn step(key: &KeyFile, auth: &str) -> Vec<String> {
    vec![format!("--key-file={}", key.path()), format!("--auth={auth}")]
}

#[test]
fn a_key_is_rolled_out_host_by_host_under_load() {
    let key = KeyFile::with("rollout", &[1]);
    let steps = ["receive-only", "permissive", "enforce"].map(|auth| step(&key, auth));
    roll(&[&[vec![]], &steps[..]].concat());
}

#[test]
fn a_key_is_replaced_host_by_host_under_load() {
    let name = |secrets: &&[u8]| KeyFile::with(&format!("next{secrets:?}"), secrets);
    let files: Vec<_> = [&[1][..], &[1, 2], &[2, 1], &[2]].iter().map(name).collect();
    let steps: Vec<_> = files.iter().map(|file| step(file, "enforce")).collect();
    roll(&steps);
}

/// All counters of the core but those of frames, and what it knows of its peers.
fn state(lab: &Lab, host: usize) -> Value {
    let mut status = lab.status(host);
    let mut kept = serde_json::json!({
        "peers": status["peers"].take(), "by_hash": status["by_hash"].take(),
        "node": status["node"].take(), "protocol": status["protocol"].take(),
    });
    let counters = kept["protocol"].as_object_mut().expect("counters");
    for name in ["frames", "stale_frames", "own_id_frames"] {
        counters.remove(name);
    }
    kept
}

/// With or without a secret: who only has recordings changes counters and nothing else.
#[test]
fn recorded_frames_change_nothing() {
    let key = KeyFile::with("replay", &[1]);
    for options in [vec![format!("--daemon-arg=--key-file={}", key.path())], vec![]] {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let Some(lab) = Lab::up_with(3, &options) else { return };
        let (answers, sender) = (Answers::listen(&lab), Sender::open(&lab));
        (0..100).for_each(|_| drop(lab.who().expect("answered")));
        wait_until("all is over and published", || {
            let count = |host, name| counter(&lab, host, "protocol", name);
            (1..=3).all(|host| count(host, "accepted") + count(host, "yielded") == 100)
        });
        let recorded = answers.finish().claims;
        let before: Vec<_> = (1..=3).map(|host| state(&lab, host)).collect();
        let stale: Vec<_> = (1..=3).map(|h| counter(&lab, h, "protocol", "stale_frames")).collect();
        recorded.iter().for_each(|frame| sender.send(TTL, frame));
        for host in 1..=3 {
            wait_until("every recording was ignored", || {
                let stale = counter(&lab, host, "protocol", "stale_frames") - stale[host - 1];
                let own = counter(&lab, host, "protocol", "own_id_frames");
                stale + own == recorded.len() as u64
            });
            assert_eq!(state(&lab, host), before[host - 1], "h{host}");
        }
        note(&format!("{} frames were repeated", recorded.len()));
    }
}

/// Claims and OWNs of somebody whom nobody knows, for attempts that it sees coming.
fn forge(lab: &Lab, count: u32) -> usize {
    let key = ClusterKey::public(VIP.into());
    let (answers, sender) = (Answers::listen(lab), Sender::open(lab));
    for number in 0..count {
        let (port, isn) = (40_000 + number as u16, 1_000_000 * number);
        let attempt = key.attempt(&FlowKey::tcp((CLIENT, port), (VIP, PORT)), isn);
        let contest = Contest { attempt, port: PORT, tries: 0, rank: 0 };
        let header = |sequence| Header::new(NodeId(1_000 + number), 1, sequence);
        let say = |sequence, entry| {
            let frame = Frame { header: header(sequence), entries: vec![entry] };
            sender.send(TTL, &wire::encode(&frame, &KeyRing::from(key)));
        };
        say(1, Entry::Claim(contest));
        sender.send_syn(port, isn);
        (2..10).for_each(|sequence| say(sequence, Entry::Own(contest)));
    }
    wait_until("no SYN is held", || (1..=3).all(|host| lab.status(host)["held"] == 0));
    let seen = answers.finish();
    assert_eq!(seen.attempts.len(), count as usize);
    // Each sent one SYN only, and that one was answered.
    assert_eq!((seen.unanswered(), seen.with_syns(1)), (0, count as usize));
    seen.second_syn_acks()
}

#[test]
fn who_has_no_key_has_no_effect() {
    let key = KeyFile::with("forger", &[1]);
    let argument = format!("--daemon-arg=--key-file={}", key.path());
    let Some(lab) = Lab::up_with(3, &[&argument]) else { return };
    let second = forge(&lab, 30);
    note(&format!("{second} second SYN-ACKs"));
    for host in 1..=3 {
        wait_until("all are refused", || counter(&lab, host, "wire", "tag") == 30 * 9);
        assert_eq!(counter(&lab, host, "protocol", "takeovers"), 0, "nobody waited for them");
        assert_eq!(lab.status(host)["hearing"].as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn without_a_key_a_stranger_delays_a_connection_and_prevents_none() {
    let Some(lab) = Lab::up(3, "rst") else { return };
    let second = forge(&lab, 30);
    // Published a little later.
    let waited = || (1..=3).map(|host| counter(&lab, host, "protocol", "takeovers")).sum::<u64>();
    wait_until("hosts have waited for the forged claims", || waited() > 0);
    note(&format!("{} times a host waited for T_own, {second} second SYN-ACKs", waited()));
    (1..=3).for_each(|host| await_peers(&lab, host, 2));
}
