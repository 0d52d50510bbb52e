#!/bin/sh
# Events per second of the simulator and of established engines, its memory, and how sweeps scale:
# all in one run, on an otherwise idle machine. Needs a network for the other engines, and Python.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet install simpy==4.1.1
cargo build --release --quiet
cargo build --profile fast --quiet --manifest-path ../Cargo.toml
"$work/venv/bin/python" simpy_engine.py > "$work/engines.jsonl"
"${CARGO_TARGET_DIR:-target}/release/engines" >> "$work/engines.jsonl"
"$work/venv/bin/python" whole.py "$work/engines.jsonl" "${CARGO_TARGET_DIR:-../../target}/fast/clusterd-sim"
