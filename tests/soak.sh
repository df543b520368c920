#!/usr/bin/env bash
# The long runs: what tests/run.sh does in a minute, here for as long as asked.
#
#   tests/soak.sh [MINUTES]     default 10
#
# Repeats the tests under load with more calls, swaps and deaths until the time
# is over. Needs what tests/run.sh has installed and built; run that first.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-10}
case "$minutes" in
    '' | *[!0-9]*) echo "usage: tests/soak.sh [MINUTES]" >&2; exit 2 ;;
esac

export RPCHOST_TEST_ROUNDS=100 RPCHOST_TEST_SWAPS=100 RPCHOST_TEST_DEATHS=10
end=$((SECONDS + minutes * 60))
round=0
while [ "$round" = 0 ] || [ "$SECONDS" -lt "$end" ]; do
    round=$((round + 1))
    printf '\n== round %s\n' "$round"
    # One at a time: each is a load of its own.
    cargo test --release --locked --test it -- --test-threads 1 --nocapture \
        hostile:: reload::swaps faults::
done
echo "soak: $round rounds passed"
