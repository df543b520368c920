#!/usr/bin/env bash
# Passes the tests: installs what they need, builds, runs everything against
# private brokers on free ports, and stops what it started.
#
#   tests/run.sh            everything
#   tests/run.sh --quick    what needs no broker
set -euo pipefail
cd "$(dirname "$0")/.."

quick=
case "${1:-}" in
    '') ;;
    --quick) quick=1 ;;
    *) echo "usage: tests/run.sh [--quick]" >&2; exit 2 ;;
esac

step() { printf '\n== %s\n' "$*"; }

# Installs Debian packages, or says the command that a person has to run.
need() {
    local command=$1; shift
    command -v "$command" >/dev/null 2>&1 && return
    [ "$command" = rabbitmq-server ] && [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        step "installing $*"
        apt-get update -q
        # A broker of the system's own must not start for our sake.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends "$@"
    else
        echo "tests/run.sh needs \`$command\`; run: sudo apt-get install $*" >&2
        exit 1
    fi
}

need cc gcc libc6-dev
[ -n "$quick" ] || need rabbitmq-server rabbitmq-server
if ! rustc --print target-libdir --target wasm32-wasip2 >/dev/null 2>&1 \
    || [ ! -d "$(rustc --print target-libdir --target wasm32-wasip2)" ]; then
    step "installing the Rust target wasm32-wasip2"
    rustup target add wasm32-wasip2
fi

if [ -z "$quick" ]; then
    need python3 python3 python3-venv
    if [ ! -x target/venv/bin/python ]; then
        step "Python clients"
        python3 -m venv target/venv || { need ensurepip python3-venv; python3 -m venv target/venv; }
    fi
    target/venv/bin/python -c 'import pika' 2>/dev/null \
        || target/venv/bin/pip install --quiet 'pika==1.3.*'
fi

if [ -z "$quick" ]; then
    step "RabbitMQ 4"
    tests/rabbitmq4.sh
fi

step "guests"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
mkdir -p target/guests
for guest in examples/fib-rust:fib examples/echo-rust:echo tests/fixtures/misbehave:misbehave; do
    source=${guest%%:*}
    name=${guest##*:}
    # One target directory: what the guests have in common is built once.
    CARGO_TARGET_DIR=target/guests-build cargo build --release --locked --target wasm32-wasip2 \
        --manifest-path "$source/Cargo.toml"
    built=$(find target/guests-build/wasm32-wasip2/release -maxdepth 1 -name '*.wasm' \
        | grep -E "/${name}(_rust)?\.wasm$")
    cp "$built" "target/guests/$name.wasm"
done

if [ -z "$quick" ] || [ -n "${CI:-}" ]; then
    step "format"
    cargo fmt --all --check
fi

# Builds the host too; a separate build would compile wasmtime a second time,
# without what only the tests need.
step "build and tests"
if [ -n "$quick" ]; then
    cargo test --release --locked --workspace -- \
        --skip private_broker --skip clients:: --skip hostile:: --skip faults:: \
        --skip messages:: --skip frames:: --skip command_line:: --skip reload::
else
    cargo test --release --locked --workspace
fi
