#!/bin/sh
# Makes .venv/ with .venv/bin/mkroot, and names the system packages that are missing; as root on a host with apt it
# installs them. `setup.sh dev` adds what tests and checks need, `setup.sh fuzz` the fuzzer besides. MKROOT_SETUP_APT=no
# leaves the host as it is.
set -eu
cd "$(dirname "$0")/.."
want=${1:-run}

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# --- Python

python=
for able in "import venv, ensurepip" ""; do # rather one that can make a .venv by itself
    for name in ${PYTHON:-} python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if [ -z "$python" ] && command -v "$name" >/dev/null 2>&1 &&
            "$name" -c "import sys; assert sys.version_info >= (3, 11); $able" 2>/dev/null; then
            python=$(command -v "$name")
        fi
    done
done
if [ -z "$python" ]; then
    found=$(python3 --version 2>/dev/null || echo "no python3")
    fail "mkroot needs Python 3.11 or later; this host has $found. Install a newer one (Debian 12, Ubuntu 24.04 and later have it) and name it: make setup PYTHON=/path/to/python3"
fi

# --- system packages: what is missing, and what for

required=
optional=
need() { # need required|optional PACKAGE WHY: note a missing package
    if [ "$1" = required ]; then required="$required $2"; else optional="$optional $2"; fi
    say "missing: $2 ($3)"
}
has() { # has TOOL: an ordinary user's PATH often lacks sbin
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

look() {
    required=
    optional=
    "$python" -c 'import venv, ensurepip' 2>/dev/null || need required "$(venv_package)" "makes .venv"
    has newuidmap || need optional uidmap "maintainer scripts as an ordinary user, with all ids"
    has sqfstar || need optional squashfs-tools "output squashfs"
    has mkfs.erofs || need optional erofs-utils "output erofs"
    { has mke2fs && has debugfs; } || need optional e2fsprogs "output ext4"
    has mcopy || need optional mtools "outputs bootfs, disk.raw, disk.qcow2 and iso"
    has qemu-s390x-static || need optional qemu-user-static "maintainer scripts of foreign architectures"
    has qemu-img || need optional qemu-utils "output disk.qcow2"
    [ "$want" = run ] || has qemu-system-x86_64 || need optional qemu-system-x86 "mkroot boot and mkroot test"
    [ "$want" = run ] || [ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || [ -e /usr/share/OVMF/OVMF_CODE.fd ] ||
        need optional ovmf "UEFI machines in QEMU"
    [ -e /usr/share/python-apt/templates/Debian.info ] ||
        need optional python-apt-common "knows the distributions' mirrors"
    [ -e /etc/ssl/certs/ca-certificates.crt ] || need optional ca-certificates "mirrors over https"
}

venv_package() { # Debian and Ubuntu name it after the interpreter's version
    "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
}

may_install() {
    [ "$(id -u)" = 0 ] && [ "${MKROOT_SETUP_APT:-yes}" != no ] && command -v apt-get >/dev/null 2>&1
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    say "installing:$*"
    apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that there are"
    # shellcheck disable=SC2068  # package names, split on purpose
    apt-get install -y -qq --no-install-recommends $@ >&2 && return
    for package in $@; do # one that this release does not have must not keep out the others
        apt-get install -y -qq --no-install-recommends "$package" >&2 || say "could not install $package"
    done
}

checked=.venv/.host-checked
if [ ! -e "$checked" ] || [ tools/setup.sh -nt "$checked" ] || [ /var/lib/dpkg/status -nt "$checked" ]; then
    look
    if [ -n "$required$optional" ]; then
        if may_install; then
            install "$required$optional"
            say "after that:"
            look
            [ -n "$required$optional" ] || say "nothing is missing"
        else
            say "as root: apt-get update && apt-get install --no-install-recommends$required$optional"
        fi
    fi
    if [ -n "$required" ] && [ ! -x .venv/bin/python ]; then
        fail "without$required there is no .venv; install it and run make again"
    fi
fi

# --- .venv, made again when Python, the dependencies or the checkout's path changed

stamp="$("$python" -c 'import sys; print(sys.version)') $(pwd) $(cksum pyproject.toml)"
fresh() { [ -x .venv/bin/mkroot ] && [ "$(cat ".venv/.stamp-$1" 2>/dev/null)" = "$stamp" ]; }

if ! fresh "$want" && ! { [ "$want" = run ] && fresh dev; }; then
    [ -w . ] || fail "$(pwd) is not writable for $(id -un), and .venv is not made for this state of it; let its owner run make setup"
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null ||
        [ "$(cat .venv/.path 2>/dev/null || pwd)" != "$(pwd)" ]; then
        say "making .venv with $python"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    pwd >.venv/.path
    extra=
    case $want in
    dev) extra=",dev" ;;
    fuzz) extra=",dev,fuzz" ;;
    esac
    say "installing mkroot and its libraries into .venv"
    pip() { .venv/bin/python -m pip install -q --disable-pip-version-check --no-input "$@"; }
    pip --only-binary lzma-mt -e ".[fast$extra]" 2>/dev/null || pip -e ".[${extra#,}]" ||
        fail "pip could not install the libraries; is there a network, or a package index set up for pip?"
    printf '%s\n' "$stamp" >".venv/.stamp-$want"
fi
if [ -n "${required+x}" ] && [ -w .venv ]; then touch "$checked" 2>/dev/null || true; fi
.venv/bin/mkroot --version >/dev/null || fail ".venv/bin/mkroot does not start; remove .venv and run make setup again"
