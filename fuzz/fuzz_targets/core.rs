//! The fuzzer's entry; what it checks is `tests/corpus/core.rs`.

#![no_main]

#[path = "../../tests/corpus/core.rs"]
mod body;
#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
