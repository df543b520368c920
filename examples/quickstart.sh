#!/usr/bin/env bash
# From a fresh clone to an answered call: installs what is missing, builds the
# host and two handlers, starts a private RabbitMQ and the host, and calls `fib`.
#
#   examples/quickstart.sh           stays until Ctrl-C, so that you can try things
#   examples/quickstart.sh --once    leaves after the first answer
#
# Uses free ports and a temporary directory of its own: a RabbitMQ of this
# machine, the `plugins` folder and running hosts are left alone. Whatever it has
# started is gone when it ends. Results go to stdout, progress to stderr.

# Functions are handed to `within` and `trap` by name.
# shellcheck disable=SC2329
set -euo pipefail

usage='usage: examples/quickstart.sh [--once]'
once=
case $#:${1:-} in
    0:) ;;
    1:--once) once=1 ;;
    1:-h | 1:--help) echo "$usage"; exit 0 ;;
    *) echo "$usage" >&2; exit 2 ;;
esac

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." >/dev/null && pwd -P)
rpchost=$root/target/release/rpchost

# Settings of another host must not reach this one.
for variable in "${!RPCHOST_@}"; do unset "$variable"; done

step() { printf '== %s\n' "$*" >&2; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

# --- the end, in whatever way it comes -------------------------------------

directory= # Holds all that is not a build product.
host=      # Process id of the host, once it was started.
answered=  # Whether the call was answered: from then on Ctrl-C is no failure.

# within SECONDS COMMAND…: waits until the command succeeds.
within() {
    local end=$((SECONDS + $1)); shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}
ended() { ! kill -0 "$host" 2>/dev/null; }
broker_gone() { ! compgen -G "$directory/rpchost-broker-*" >/dev/null; }

clean_up() {
    local status=$?
    trap '' HUP INT PIPE TERM
    if [ -n "$host" ]; then
        # 5 s of drain and 20 s for the broker are the longest it may take.
        if ! ended; then
            kill -TERM "$host" 2>/dev/null || true
            within 30 ended || kill -KILL "$host" 2>/dev/null || true
        fi
        wait "$host" 2>/dev/null || true
        # The broker ends by itself when its host is gone, also after a kill.
        within 20 broker_gone || echo "quickstart: the broker in $directory is still there" >&2
        # Above 128 somebody has asked for the end.
        if [ "$status" -ne 0 ] && [ "$status" -lt 128 ]; then
            { printf '\n-- log of the host --\n'; cat "$directory/log"; } >&2 || true
        fi
    fi
    [ -z "$directory" ] || rm -rf -- "$directory"
    exit "$status"
}
stop() {
    [ -n "$answered" ] && [ -z "$once" ] && exit 0
    exit "$1"
}
trap clean_up EXIT
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 141' PIPE
trap 'stop 143' TERM

# --- what is needed ----------------------------------------------------------

# Its wrapper is in /usr/sbin, which is not in everybody's PATH.
has_rabbitmq() {
    command -v rabbitmq-server >/dev/null || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]
}

command -v cargo >/dev/null || fail 'needs Rust; see https://rustup.rs'
{ command -v cc && command -v make; } >/dev/null ||
    fail 'needs a C compiler and make; run: sudo apt-get install gcc libc6-dev make'

if ! has_rabbitmq; then
    command -v apt-get >/dev/null || fail 'needs RabbitMQ, which need not run; install it first'
    install='apt-get install --no-install-recommends rabbitmq-server'
    [ "$(id -u)" = 0 ] || fail "needs RabbitMQ, which need not run; run: sudo $install"
    step 'installing RabbitMQ'
    {
        apt-get update -q
        # The system's own broker need not start for our sake.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $install -q -y
    } >&2
fi

cd -- "$root"
if [ ! -d "$(rustc --print target-libdir --target wasm32-wasip2)" ]; then
    command -v rustup >/dev/null ||
        fail 'needs the Rust target wasm32-wasip2, and there is no rustup to add it'
    step 'adding the Rust target wasm32-wasip2'
    rustup target add wasm32-wasip2 >&2
fi

# --- build ---------------------------------------------------------------------

step 'building the host; the first time takes some ten minutes'
CARGO_TARGET_DIR=target cargo build --release --locked --workspace >&2

directory=$(mktemp -d "${TMPDIR:-/tmp}/rpchost-quickstart-XXXXXX")
mkdir "$directory/plugins"
for handler in fib echo; do
    step "building the handler $handler"
    CARGO_TARGET_DIR=target/guests-build cargo build --release --locked \
        --target wasm32-wasip2 --manifest-path "examples/$handler-rust/Cargo.toml" >&2
    cp "target/guests-build/wasm32-wasip2/release/$handler.wasm" "$directory/plugins/"
done

# --- run -----------------------------------------------------------------------

# Started where there is no `rpchost.toml`. The broker's own directory is made in
# TMPDIR, so that its end can be waited for.
step 'starting a private broker and the host'
cd -- "$directory"
: >out
# In a process group of its own: Ctrl-C must reach it once, through `clean_up`.
# A second signal would tell it not to finish what it does.
set -m
TMPDIR=$directory "$rpchost" dev --plugins plugins --default-method fib --drain-timeout 5s \
    --state-dir "$directory/state" </dev/null >out 2>log &
host=$!
set +m

# 60 s are the broker's own limit for starting, 30 s the host's share.
ready_or_ended() { grep -q '^rpchost ready ' out || ended; }
within 90 ready_or_ended || fail 'the host was not ready after 90 s'
ready=$(grep '^rpchost ready ' out) || fail 'the host ended before it was ready'
url=$(sed -n 's/^  broker  *//p' out)
admin=${ready##*admin=}

# Exit code 4 is "nobody to answer": the host says it is ready a moment before
# it consumes.
call() {
    status=0
    result=$("$rpchost" call fib 30 --amqp-url "$url" 2>call.err) || status=$?
    [ "$status" -ne 4 ]
}
within 10 call || true
if [ "$status" -ne 0 ]; then
    cat call.err >&2
    fail "\`rpchost call fib 30\` ended with exit code $status"
fi
[ "$result" = 832040 ] || fail "\`rpchost call fib 30\` printed \`$result\`, not 832040"
answered=1

echo
echo "\$ rpchost call fib 30 --amqp-url $url"
echo "$result"
echo
if [ -n "$once" ]; then
    echo 'A WebAssembly component has answered through RabbitMQ.'
    echo 'Without --once, this stays, so that you can try more.'
    exit 0
fi
cat <<END
A WebAssembly component has answered through RabbitMQ. Try next, in another terminal:

  cd $root
  export RPCHOST_AMQP_URL=$url

  call          target/release/rpchost call fib 10
                target/release/rpchost call echo hello
  from Python   pip install pika
                python3 examples/callers/python-pika/fib_rpc_client.py 10 --url \$RPCHOST_AMQP_URL
  drop one in   cp target/guests-build/wasm32-wasip2/release/echo.wasm \\
                    $directory/plugins/again.wasm
                target/release/rpchost call again hello
  look inside   target/release/rpchost inspect $directory/plugins/fib.wasm
                curl http://$admin/metrics
                tail -f $directory/log
  write one     wit/README.md

Ctrl-C stops the host and the broker, and removes $directory.
END

# The host's own end is a failure: nobody has asked for it.
{ wait "$host"; } 2>/dev/null || true
fail 'the host has ended by itself'
