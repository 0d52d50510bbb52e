#!/usr/bin/env bash
# Connect latency of each MAC mode as a ratio to `multicast`, on a hub, where all of them work.
# Each round measures the modes one after the other; ratios are taken within a round, and the
# median over the rounds is printed with the least and the greatest, since the machine
# does other things as well.
# Usage: modes.sh [ROUNDS] [CONNECTIONS]   (7 rounds of 2000 take about two minutes)
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-7}
connections=${2:-2000}
program=${CARGO_TARGET_DIR:-target}/release/clusterd
modes="multicast igmp stealth shared"

number() { sed -E "s/.*\"$1\":([0-9.]+).*/\1/"; }

for round in $(seq "$rounds"); do
    for mode in $modes; do
        json=$("$program" lab run --topology hub --mac "$mode" --connections "$connections" --concurrency 1 --json)
        echo "$round $mode $(number connect_p50_us <<<"$json") $(number connect_p99_us <<<"$json") $(number failed <<<"$json")"
    done
done | awk -v modes="$modes" '
    { p50[$1, $2] = $3; p99[$1, $2] = $4; failed[$2] += $5; rounds = $1 }
    function ratios(of, mode,    i, j, n, t, list) {
        n = 0
        for (i = 1; i <= rounds; i++) list[++n] = of[i, mode] / of[i, "multicast"]
        for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j - 1] > list[j]; j--) { t = list[j]; list[j] = list[j - 1]; list[j - 1] = t }
        return sprintf("%5.2f (%.2f to %.2f)", list[int((n + 1) / 2)], list[1], list[n])
    }
    END {
        printf "%-10s %-22s %-22s %s\n", "mode", "p50 / multicast", "p99 / multicast", "failed"
        count = split(modes, names)
        for (k = 1; k <= count; k++) printf "%-10s %-22s %-22s %d\n", names[k], ratios(p50, names[k]), ratios(p99, names[k]), failed[names[k]]
    }'
echo "repeat with: tests/figures/modes.sh $rounds $connections"
