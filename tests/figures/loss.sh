#!/usr/bin/env bash
# Claims, bytes and second SYN-ACKs per connection while claims get lost: by
# claims with and without saying them again, and with the hash fallback.
# Usage: loss.sh [CONNECTIONS]   (100 000 take about five minutes)
set -euo pipefail
cd "$(dirname "$0")/../.."
connections=${1:-100000}

# The same program without re-assertion, built from a patched copy of the tree.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r Cargo.toml Cargo.lock src proto-spec sim "$copy"
patch --quiet --directory="$copy" --strip=1 <tests/figures/without-reassert.patch
# The manifest names tests and benchmarks that are not needed here.
sed -i '/^\[\[\(test\|bench\)\]\]/,/^$/d' "$copy/Cargo.toml"
cargo build --release --quiet
cargo build --release --quiet --manifest-path "$copy/Cargo.toml" --target-dir target/figures

number() { sed -E "s/.*\"$1\":([0-9.]+).*/\1/"; }

printf '%-26s %8s %10s %10s %14s %8s %9s %9s\n' variant loss claims/conn bytes/conn 'dup/100000' failed 'p50 us' 'p99 us'
while read -r name program mode; do
    for loss in 0% 0.1% 1% 10% 100%; do
        json=$("$program" lab run --nodes 3 --connections "$connections" --claim-loss "$loss" \
            --daemon-arg=--mode="$mode" --json)
        duplicates=$(number second_syn_acks <<<"$json")
        printf '%-26s %8s %10.3f %10.1f %14.1f %8d %9.0f %9.0f\n' "$name" "$loss" \
            "$(number claims_per_connection <<<"$json")" "$(number claim_bytes_per_connection <<<"$json")" \
            "$(awk "BEGIN { print $duplicates * 100000 / $connections }")" \
            "$(number failed <<<"$json")" "$(number connect_p50_us <<<"$json")" "$(number connect_p99_us <<<"$json")"
    done
done <<END
claims target/release/clusterd claim
claims,-said-once target/figures/release/clusterd claim
auto target/release/clusterd auto
hash target/release/clusterd hash
END
echo "repeat with: tests/figures/loss.sh $connections"
