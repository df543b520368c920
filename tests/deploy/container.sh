#!/usr/bin/env bash
# Builds the image of examples/deploy/container and has the host in it answer a call, on a machine with no
# registry and no container engine but buildah (Debian's): its two bases are made here, the one that
# the host runs on of Debian's packages, the one that compiles of a `cargo` that hands out
# the binary it is given. So everything is tried but the compilation.
#
#   tests/deploy/container.sh RPCHOST PLUGIN.wasm AMQP_URL QUEUE
#
# Needs root, for buildah's chroot isolation, and leaves nothing but target/container-base.
set -euo pipefail
[ $# -eq 4 ] || { echo "usage: tests/deploy/container.sh RPCHOST PLUGIN.wasm AMQP_URL QUEUE" >&2; exit 2; }
rpchost=$(realpath -- "$1") plugin=$(realpath -- "$2") url=$3 queue=$4
cd "$(dirname "$0")/../.."

base=target/container-base
if [ ! -e "$base/etc/debian_version" ]; then
    rm -rf "$base" "$base.new"
    # shellcheck disable=SC2016  # apt's own
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -1)
    # This machine's Debian, because the binary was linked with its C library.
    # shellcheck disable=SC1091
    . /etc/os-release
    # No maintainer's script is run, nothing is configured: files are all that the host needs.
    debootstrap --foreign --variant=minbase --include=libgcc-s1,ca-certificates \
        "$VERSION_CODENAME" "$base.new" "$mirror" >/dev/null
    for package in "$base.new"/var/cache/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$base.new"
    done
    rm -rf "$base.new/var/cache/apt" "$base.new/debootstrap"
    mv "$base.new" "$base"
fi

work=$(mktemp -d)
host=
clean_up() {
    [ -z "$host" ] || kill "$host" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf -- "$work"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
buildah() { command buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

image() { # NAME: makes an image of the folder $work/NAME on the base
    local container
    container=$(buildah from scratch)
    buildah add -q "$container" "$base" / >/dev/null
    [ ! -d "$work/$1" ] || buildah add -q "$container" "$work/$1" / >/dev/null
    buildah commit -q "$container" "localhost/$1" >/dev/null
    buildah rm "$container" >/dev/null
}
mkdir -p "$work/rust/usr/local/bin" "$work/context" "$work/plugins" "$work/state"
cp "$rpchost" "$work/rust/usr/local/bin/built"
cat >"$work/rust/usr/local/bin/cargo" <<'CARGO'
#!/bin/sh
[ "$*" = 'build --release --locked --workspace' ] && [ -e Cargo.lock ] && mkdir -p target/release &&
    cp /usr/local/bin/built target/release/rpchost
CARGO
chmod 755 "$work/rust/usr/local/bin/"*
image rust
image base
# What the image is built from is the project, not what was built in it.
cp Cargo.toml Cargo.lock "$work/context/"
buildah build -q --isolation chroot -f examples/deploy/container/Containerfile -t rpchost \
    --build-arg RUST=localhost/rust --build-arg BASE=localhost/base "$work/context" >/dev/null
buildah inspect --type image --format 'user {{.OCIv1.Config.User}}, entrypoint {{.OCIv1.Config.Entrypoint}}, command {{.OCIv1.Config.Cmd}}, stop {{.OCIv1.Config.StopSignal}}' rpchost
echo

container=$(buildah from rpchost)
cp "$plugin" "$work/plugins/echo.wasm"
chmod -R a+rX "$work"
chown 65532:65532 "$work/state"
# `buildah run` knows no entrypoint, so it is written out; user and environment are the image's.
buildah run --isolation chroot --cap-drop all -v "$work/plugins:/plugins:ro" -v "$work/state:/state" \
    -e RPCHOST_AMQP_URL="$url" -e RPCHOST_ADMIN=127.0.0.1:0 "$container" -- \
    /usr/local/bin/rpchost serve --queue "$queue" >"$work/out" 2>"$work/log" &
host=$!
for _ in $(seq 300); do
    grep -q '^rpchost ready ' "$work/out" && break
    kill -0 "$host" 2>/dev/null || break
    sleep 0.1
done
grep '^rpchost ready ' "$work/out" || { cat "$work/log" >&2; exit 1; }
[ -n "$(ls -A "$work/state")" ] || { echo "nothing is kept in /state" >&2; exit 1; }
inside=$(pgrep -n -f "rpchost serve --queue $queue")
echo "runs as $(awk '/^Uid:/ {print $2}' "/proc/$inside/status")"
"$rpchost" call echo hello --queue "$queue" --amqp-url "$url"
# To the host itself: buildah does not pass the signal on.
kill -TERM "$inside"
wait "$host" && host= && echo stopped
