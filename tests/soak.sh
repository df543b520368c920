#!/usr/bin/env bash
# The long runs: what tests/run.sh does in a minute, here for as long as asked.
#
#   tests/soak.sh [MINUTES]     default 10
#   tests/soak.sh storm [PIECES]     default 20
#
# Repeats the tests under load with more calls, swaps and deaths until the time
# is over, and prints what they measure: 10,000 swaps, sixty hostile plugins a
# thousand times each, other calls beside four that burn, a hundred plugins ready
# from a warm cache, memory of an idle plugin. One round takes about half an hour.
# Before the rounds it takes projects in Zig and AssemblyScript from `new` to a call, has all
# languages replace each other under load, and reads random and damaged messages for ten minutes.
# The storm is faults of all kinds under load, in pieces of 28 faults and 50,000 requests, each with
# brokers and hosts of its own: 560 faults among a million requests in about two hours.
# tests/README.md says what they are and what came of it.
# Needs what tests/run.sh has installed and built; run that first.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "usage: tests/soak.sh [MINUTES] | tests/soak.sh storm [PIECES]" >&2
    exit 2
}

# number TEXT: ends with the usage unless it is a whole number
number() {
    case "$1" in '' | *[!0-9]*) usage ;; esac
}

[ $# -le 2 ] || usage
if [ "${1:-}" = storm ]; then
    pieces=${2:-20}
    number "$pieces"
    # Each kind twice in a piece.
    export RPCHOST_TEST_PIECES=$pieces RPCHOST_TEST_FAULTS=2 RPCHOST_TEST_REQUESTS=50000
    # One after the other: each wants the machine for itself.
    cargo --config tests/profile.toml test --release --locked --test it -- --test-threads 1 --nocapture faults::storm::
    exit
fi

minutes=${1:-10}
number "$minutes"
[ $# -le 1 ] || usage

# Times are held to their bars here, so nothing else should run on the machine.
export RPCHOST_TEST_STRICT=1
export RPCHOST_TEST_ROUNDS=1000 RPCHOST_TEST_SWAPS=100 RPCHOST_TEST_DEATHS=10
export RPCHOST_TEST_QUICK_SWAPS=10000

printf '\n== projects in Zig and AssemblyScript\n'
if [ ! -x target/author-rare/node_modules/.bin/asc ]; then
    mkdir -p target/author-rare
    (cd target/author-rare && npm install --no-audit --no-fund --no-save assemblyscript@0.28.20)
fi
cargo --config tests/profile.toml test --release --locked --test it -- author::rare::

printf '\n== ten minutes of random and damaged messages in every dialect\n'
RPCHOST_TEST_WIRE_SECONDS=600 cargo --config tests/profile.toml test --release --locked --test it -- --nocapture \
    wire::hostile_bytes

end=$((SECONDS + minutes * 60))
round=0
while [ "$round" = 0 ] || [ "$SECONDS" -lt "$end" ]; do
    round=$((round + 1))
    printf '\n== round %s\n' "$round"
    # One at a time: each is a load of its own.
    cargo --config tests/profile.toml test --release --locked --test it -- --test-threads 1 --nocapture \
        endurance:: hostile:: reload::swaps faults::
done
echo "soak: $round rounds passed"
