# shellcheck shell=bash disable=SC2034
# What the scripts share: where things are, how they speak, how they become root, and what differs
# between architectures. Sourced, never run.

set -euo pipefail

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$repository"

# Debian leaves these out of an ordinary user's path; mkfs.ext4, nft and runc live there.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

# Cargo's own variable is honoured, so that the agent is looked for where cargo puts it.
cargo_target="${CARGO_TARGET_DIR:-$repository/target}"
venv="$repository/target/venv"

# CI builds what Cargo.lock says or fails; elsewhere cargo may bring the file up to date.
locked=(${CI:+--locked})

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Gigabytes of images and disks go here: /tmp is memory on many machines.
export TMPDIR="${TMPDIR:-/var/tmp}"

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo env TMPDIR="$TMPDIR" "$@"
    else
        die "'$*' needs root: run this as root, or install sudo"
    fi
}

# Asks for sudo's password now, and keeps it good while this script lives: a question after a build of
# a quarter of an hour would find nobody to answer.
keep_root() {
    [ "$(id -u)" -ne 0 ] || return 0
    have sudo || die "this needs root: run it as root, or install sudo"
    sudo -v || die "sudo did not let this in"
    while sleep 50 && kill -0 "$$" 2>/dev/null; do sudo -n -v; done 2>/dev/null &
}

# The guests' architecture: the host's own. Everything made for a guest lies under its name, so that
# another architecture's kernel and agent can lie beside it.
architecture="${GUEST_ARCHITECTURE:-$(uname -m)}"
case "$architecture" in
x86_64)
    debian_architecture=amd64
    qemu_package=qemu-system-x86
    ;;
aarch64)
    debian_architecture=arm64
    qemu_package=qemu-system-arm
    ;;
*) die "no guests for architecture '$architecture'; x86_64 and aarch64 are known" ;;
esac
[ "$architecture" = "$(uname -m)" ] ||
    die "guests of $architecture cannot be prepared on a $(uname -m) host yet"
qemu_command="qemu-system-$architecture"
guest="$repository/target/guest/$architecture"

# `ID` of the distribution as /etc/os-release has it, and its code name.
distribution() { (. /etc/os-release && printf '%s' "${ID:-unknown}"); }
codename() { (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-unknown}"); }

# One at a time: two runs would unpack and install over each other. Ends with the calling shell.
# A script that another one started under the lock does not take it again.
take_setup_lock() {
    [ -z "${COLIBRI_SETUP_LOCKED:-}" ] || return 0
    mkdir -p "$repository/target"
    exec 9>"$repository/target/.setup.lock"
    if ! flock -n 9; then
        say "waiting for another set-up to end (at most 30 minutes)"
        flock -w 1800 9 || die "another set-up still holds target/.setup.lock after 30 minutes"
    fi
    export COLIBRI_SETUP_LOCKED=1
}

# Refreshes apt's lists, at most once a run.
refresh_package_lists() {
    [ -z "${package_lists_fresh:-}" ] || return 0
    say "packages: refreshing apt's lists"
    as_root apt-get update -q -o Acquire::Retries=3 >&2 ||
        die "'apt-get update' failed: check the network and /etc/apt/sources.list*"
    package_lists_fresh=1
}
