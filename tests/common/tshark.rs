//! tshark with the dissector of `proto-spec/clusterd.lua`, and files for it to read.

// Each test crate uses its own part of it.
#![allow(dead_code)]

use std::fs;
use std::hash::Hasher;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use siphasher::sip128::{Hasher128, SipHasher24};

const DISSECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto-spec/clusterd.lua");
const IP_PROTOCOL: u8 = 150;

/// Says why tshark cannot be used, unless it can.
pub fn is_missing() -> bool {
    let Err(error) = Command::new("tshark").arg("--version").output() else { return false };
    let reason = format!("needs the program tshark: {error}");
    assert!(std::env::var_os("CLUSTERD_REQUIRE_KERNEL").is_none(), "cannot run: {reason}");
    // libtest captures what `eprintln!` says.
    drop(writeln!(std::io::stderr(), "skipped: {reason}"));
    true
}

/// What the dissector says of each frame of a capture that it has looked at,
/// `Null` for a frame that is none of its business.
pub fn dissect(capture: &Path) -> Vec<Value> {
    let output = run(capture, &["-T", "json", "--no-duplicate-keys"]);
    let frames: Vec<Value> = serde_json::from_str(&output).expect("tshark prints JSON");
    let layers = |frame: Value| frame["_source"]["layers"]["clusterd"].clone();
    frames.into_iter().map(layers).collect()
}

/// Runs tshark on a capture and returns what it prints; an error of the
/// dissector is a panic.
pub fn run(capture: &Path, options: &[&str]) -> String {
    let output = Command::new("tshark")
        // Nobody's own preferences and plugins.
        .env("WIRESHARK_CONFIG_DIR", scratch("no-wireshark-configuration"))
        .args(["-n", "-X", &format!("lua_script:{DISSECTOR}"), "-r"])
        .arg(capture)
        .args(options)
        .output()
        .expect("run tshark");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {stderr}");
    let stdout = String::from_utf8(output.stdout).expect("tshark prints UTF-8");
    for text in [&stderr, stdout.as_str()] {
        let error = text.lines().find(|line| line.contains("Lua:") || line.contains("Lua Error"));
        assert_eq!(error, None, "an error of the dissector");
    }
    stdout
}

/// All values of a field that may be missing or there several times.
pub fn all<'a>(layer: &'a Value, field: &str) -> &'a [Value] {
    match layer.get(field) {
        None => &[],
        Some(Value::Array(values)) => values,
        Some(value) => std::slice::from_ref(value),
    }
}

/// A number as tshark writes it.
pub fn number(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is not a number"));
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// An Ethernet frame with a claim frame in it.
pub fn packet(vip: IpAddr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x03, 0xbf, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1];
    match vip {
        IpAddr::V4(vip) => {
            bytes.extend([0x08, 0x00, 0x45, 0xc0]);
            bytes.extend((20 + payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, ttl, IP_PROTOCOL, 0, 0, 10, 0, 0, 11]);
            bytes.extend(vip.octets());
        }
        IpAddr::V6(vip) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((payload.len() as u16).to_be_bytes());
            bytes.extend([IP_PROTOCOL, ttl]);
            bytes.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 11).octets());
            bytes.extend(vip.octets());
        }
    }
    bytes.extend(payload);
    bytes
}

/// A capture file of Ethernet frames, one second apart, each cut to `snaplen`
/// bytes; removed when it is dropped.
pub struct File(PathBuf);

impl File {
    pub fn new(name: &str, packets: &[Vec<u8>], snaplen: usize) -> Self {
        let mut bytes = Vec::new();
        // Microseconds, version 2.4, time zone, accuracy, longest frame, Ethernet.
        for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0xffff, 1u32] {
            bytes.extend(word.to_le_bytes());
        }
        for (second, packet) in packets.iter().enumerate() {
            let captured = &packet[..packet.len().min(snaplen)];
            for word in [second, 0, captured.len(), packet.len()] {
                bytes.extend((word as u32).to_le_bytes());
            }
            bytes.extend(captured);
        }
        let path = scratch(&format!("{name}-{}.pcap", std::process::id()));
        fs::write(&path, bytes).expect("write a capture");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// SipHash-2-4-128 (spec 4).
pub fn siphash(key: &[u8], bytes: &[u8]) -> [u8; 16] {
    let key = key.try_into().expect("a key of 16 bytes");
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(bytes);
    hasher.finish128().as_bytes()
}

pub fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "half a byte in {digits}");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}
