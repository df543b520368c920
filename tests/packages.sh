# Sourced by scripts that need Debian packages: says which are missing, and
# installs them where that is possible.

step() { printf '\n== %s\n' "$*" >&2; }

missing=()
# need PROOF PACKAGE…: the packages are missing if the shell command PROOF fails.
need() {
    local proof=$1; shift
    sh -c "$proof" >/dev/null 2>&1 || missing+=("$@")
}

# install_missing: installs what the function `needs` of the caller finds missing.
install_missing() {
    needs
    [ ${#missing[@]} -gt 0 ] || return 0
    local install=(apt-get install --no-install-recommends "${missing[@]}")
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "$0 needs more than is installed; run: sudo ${install[*]}" >&2
        exit 1
    fi
    step "installing ${missing[*]}"
    apt-get update -q >&2
    # A broker of the system's own must not start for our sake.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 "${install[@]}" -q -y >&2
    missing=()
    needs
    if [ ${#missing[@]} -gt 0 ]; then
        echo "$0: installed, but not found or not working: ${missing[*]}" >&2
        exit 1
    fi
}
