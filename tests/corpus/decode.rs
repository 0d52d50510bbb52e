//! Any bytes are decoded or refused, and what is decoded can be said again.

use clusterd::wire::{self, DecodeError, FRAME_MAX, Frame, MAGIC};

use crate::common::cluster::key;
use crate::common::driver::ring;

const HEADER_LEN: usize = 32;
const TAG_LEN: usize = 16;
/// Where a frame names its key; 0 is the public one.
const KEY_ID: usize = 14;

/// One input of the fuzzer.
pub fn run(bytes: &[u8]) {
    check(bytes);
    check(&ours(bytes));
}

fn check(bytes: &[u8]) {
    let frame = match wire::decode(bytes, &ring()) {
        Ok(frame) => frame,
        Err(DecodeError::Version { major, header }) => {
            assert_ne!(major, wire::MAJOR);
            return assert_eq!(bytes[8..12], header.node.0.to_be_bytes());
        }
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let again = wire::encode(&frame, &ring());
    // Whatever was skipped made the frame longer, never shorter.
    assert!(again.len() <= bytes.len());
    assert_eq!(again.len(), length(&frame));
    assert_eq!(wire::decode(&again, &ring()), Ok(frame));
}

/// The same bytes as a frame of this cluster with the right tag, since no fuzzer guesses one.
fn ours(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len().min(FRAME_MAX - TAG_LEN)].to_vec();
    bytes.resize(bytes.len().max(HEADER_LEN), 0);
    bytes[..2].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&key().cluster_id().to_be_bytes());
    bytes[KEY_ID] = 0;
    let tag = key().tag(&bytes);
    bytes.extend(tag);
    bytes
}

/// What the protocol core counts on when it fills a frame.
fn length(frame: &Frame) -> usize {
    let entries: usize = frame.entries.iter().map(|entry| entry.wire_len()).sum();
    FRAME_MAX - Frame::ENTRIES_MAX + entries
}
