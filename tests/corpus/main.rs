//! Replays what the fuzzers have found worth keeping: the inputs of `fuzz/corpus`,
//! through the same code that `make fuzz` runs.

#[path = "../common/mod.rs"]
mod common;
mod core;
mod decode;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

#[test]
fn decode_keeps_its_promises() {
    replay("decode", decode::run);
}

#[test]
fn core_keeps_its_promises() {
    replay("core", core::run);
}

/// Runs every input of a target; names the first that fails.
fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&corpus)
        .expect("the corpus is part of the repository")
        .map(|entry| entry.expect("a directory that can be read").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "no inputs in {}", corpus.display());
    for input in inputs {
        let bytes = fs::read(&input).expect("an input that can be read");
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| run(&bytes))) {
            eprintln!("failed on {}", input.display());
            panic::resume_unwind(panic);
        }
    }
}
