//! Any bytes are decoded or refused, and what is decoded can be said again.

use clusterd::wire::{self, FRAME_MAX, Frame, MAGIC, MAJOR};

use crate::common::cluster::key;

const TAG_LEN: usize = 16;

/// One input of the fuzzer.
pub fn run(bytes: &[u8]) {
    check(bytes);
    check(&ours(bytes));
}

fn check(bytes: &[u8]) {
    let frame = match wire::decode(bytes, &key()) {
        Ok(frame) => frame,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let again = wire::encode(&frame, &key());
    // Whatever was skipped made the frame longer, never shorter.
    assert!(again.len() <= bytes.len());
    assert_eq!(again.len(), length(&frame));
    assert_eq!(wire::decode(&again, &key()), Ok(frame));
}

/// The same bytes as a frame of this version and cluster with the right tag,
/// since no fuzzer guesses one.
fn ours(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len().min(FRAME_MAX - TAG_LEN)].to_vec();
    bytes.resize(bytes.len().max(8), 0);
    bytes[..2].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[2] = MAJOR;
    bytes[4..8].copy_from_slice(&key().cluster_id().to_be_bytes());
    let tag = key().tag(&bytes);
    bytes.extend(tag);
    bytes
}

/// What the protocol core counts on when it fills a frame.
fn length(frame: &Frame) -> usize {
    let entries: usize = frame.entries.iter().map(|entry| entry.wire_len()).sum();
    FRAME_MAX - Frame::ENTRIES_MAX + entries
}
