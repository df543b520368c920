#!/usr/bin/env bash
# Makes a folder with Debian 13's RabbitMQ 4.0 in it, which `PrivateBroker::start_from` starts on
# any Debian, beside the system's own RabbitMQ. If the folder is there already, only checks it.
#
#   tests/rabbitmq4.sh [DIR]      DIR is target/rabbitmq-4 unless given
#
# Takes about 20 s and 100 MB. Needs root only to install debootstrap, and only if that is missing.
#
# The packages are fetched and unpacked, not installed: no chroot, no mounts, nothing configured,
# nothing started. Erlang runs with the libc from its own folder, not with the system's older one,
# because a small script stands in front of each of its programs. So it sees the same files, users
# and /proc as everybody, any user may run it, and the folder may be moved.
set -euo pipefail

suite=trixie
case $# in
    0) dir=$(cd "$(dirname "$0")/.." && pwd)/target/rabbitmq-4 ;;
    1) dir=$(realpath -m -- "$1") ;;
    *) echo "usage: tests/rabbitmq4.sh [DIR]" >&2; exit 2 ;;
esac

fail() {
    echo "tests/rabbitmq4.sh: $*" >&2
    exit 1
}

case $dir in
    *[[:space:]]*) fail "RabbitMQ's own scripts do not bear a space in their path (\`$dir\`)" ;;
esac

# Whether the folder has the server, and an Erlang that runs and finds its libraries.
check() {
    [ -x "$1/usr/lib/rabbitmq/bin/rabbitmq-server" ] || return
    HOME=/ ERL_CRASH_DUMP_SECONDS=0 "$1/usr/lib/erlang/bin/erl" -noinput -eval \
        '{ok, _} = application:ensure_all_started(ssl), halt(0).' >/dev/null 2>&1
}

if check "$dir"; then exit; fi
if [ -n "$(ls -A "$dir" 2>/dev/null)" ]; then
    fail "\`$dir\` is not empty, and what is in it is no RabbitMQ that runs; remove it first"
fi

if ! command -v debootstrap >/dev/null || [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]
then
    packages=(debootstrap debian-archive-keyring)
    [ "$(id -u)" = 0 ] || fail "debootstrap is missing; run: sudo apt-get install ${packages[*]}"
    said=$({ apt-get update -q && DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${packages[@]}"; } 2>&1) \
        || fail "cannot install ${packages[*]}: ${said##*$'\n'}"
fi

mkdir -p "$(dirname "$dir")"
# Beside the folder, so that it can be moved there as a whole: nobody finds half of it.
work=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The mirrors that apt uses here, each once. Not every one has Debian 13; some have other things.
# shellcheck disable=SC2016  # awk's and apt's
mapfile -t mirrors < <(apt-get indextargets --format '$(SITE)' | awk '!seen[$0]++')
for mirror in "${mirrors[@]}"; do
    rm -rf "$work/fetched"
    if debootstrap --download-only --force-check-gpg --variant=minbase \
        --include=rabbitmq-server "$suite" "$work/fetched" "$mirror" >>"$work/log" 2>&1
    then
        fetched=$work/fetched/var/cache/apt/archives
        break
    fi
done
if [ -z "${fetched:-}" ]; then
    said=$(grep -s '^E: ' "$work/log" | tail -n 1) || true
    fail "debootstrap gets no RabbitMQ of Debian's \`$suite\` from apt's mirrors" \
        "(${mirrors[*]}): ${said#E: }"
fi

# Only what an Erlang needs; its shell and other tools are the system's.
root=$work/root
mkdir -m 755 "$root"
for package in "$fetched"/{lib,zlib1g_,erlang-,rabbitmq-server_}*.deb; do
    case ${package##*/} in
        libpython*|libc-bin_*|libapt-*|libpam-*) ;;
        *) dpkg-deb -x "$package" "$root" ;;
    esac
done
rm -rf "${root:?}"/{etc,var,usr/{bin,sbin,share}}

# The script that finds the rest of Erlang, told where it is now.
# shellcheck disable=SC2016  # to be expanded when that script runs
sed -i 's|ROOTDIR=/usr/lib/erlang$|ROOTDIR=${0%/usr/lib/erlang/*}/usr/lib/erlang|' \
    "$root"/usr/lib/erlang/bin/erl "$root"/usr/lib/erlang/erts-*/bin/erl

loader=$(cd "$root" && echo usr/lib/*-linux-*/ld-linux*.so.*)
[ -f "$root/$loader" ] || fail "found no dynamic loader in Debian's \`$suite\` (\`$loader\`)"
cat >"$work/front" <<END
#!/bin/sh
# Runs the program beside this script with the libc from its own folder.
root=\${0%/usr/lib/erlang/*}
exec "\$root/$loader" --library-path "\$root/${loader%/*}" --argv0 "\$0" "\$0.elf" "\$@"
END
chmod 755 "$work/front"
find "$root/usr/lib/erlang" -type f -perm /111 ! -name '*.so' ! -name '*.elf' -print0 |
    while IFS= read -r -d '' program; do
        # Scripts stay what they are.
        [ "$(head -c 4 "$program")" = $'\x7fELF' ] || continue
        mv "$program" "$program.elf"
        cp "$work/front" "$program"
    done
# Instead of a link: a front must lie beside its program.
ln -f "$root"/usr/lib/erlang/erts-*/bin/epmd.elf "$root/usr/lib/erlang/bin/epmd.elf"
rm "$root/usr/lib/erlang/bin/epmd"
cp "$work/front" "$root/usr/lib/erlang/bin/epmd"

check "$root" || fail "Erlang of Debian's \`$suite\` does not run here"
# Fails if somebody else has made it meanwhile, which is as good.
mv -T "$root" "$dir" 2>/dev/null || check "$dir" || fail "cannot move \`$root\` to \`$dir\`"
