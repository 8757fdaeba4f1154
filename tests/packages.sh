# What run.sh needs from Debian's packages: what is missing in the system, and the newer servers,
# each in a root of its own.
#
# A root is a minimal Debian of a later release with one server in it. It is created once and
# kept, and created again if it is incomplete. The host system is not changed. A program in a root has
# its own mount namespace, which ends with it: no /proc stays mounted, even after SIGKILL.

roots=${LICET_TEST_ROOTS:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/licet-test}

# release_of PACKAGE VERSION: the Debian release that has it.
release_of() {
    case $1-$2 in
        rabbitmq-server-4.0 | postgresql-17) echo trixie ;;
        rabbitmq-server-4.3) echo forky ;;
        *) return 1 ;;
    esac
}

newest() { compgen -G "$1" | sort -V | tail -n 1; }
find_broker() { newest "${1:-}/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"; }
find_database() { newest "${1:-}/usr/lib/postgresql/*/bin"; }

install_missing() {
    local packages=()
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    command -v make >/dev/null || packages+=(make) # the allocator's
    [[ ${LICET_TEST_AMQP_URL:-} || $broker_root || $(find_broker) ]] || packages+=(rabbitmq-server)
    [[ ${LICET_TEST_DATABASE_URL:-} || $database_root || -x $(find_database)/initdb ]] || packages+=(postgresql)
    [[ ! $broker_root$database_root ]] || command -v debootstrap >/dev/null ||
        packages+=(debootstrap debian-archive-keyring)
    ((${#packages[@]})) || return 0

    command -v apt-get >/dev/null || die "missing: ${packages[*]}. This is neither Debian nor Ubuntu," \
        "so install them yourself, or set LICET_TEST_AMQP_URL and LICET_TEST_DATABASE_URL."
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null ||
            die "missing: ${packages[*]}. Install them as root (there is no sudo here), then run this again."
        as_root=(sudo)
    fi

    note "Installing ${packages[*]}"
    # Debian starts a service when it is installed, unless this file says no.
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$tmp/policy-rc.d"
        "${as_root[@]}" install -m 755 "$tmp/policy-rc.d" /usr/sbin/policy-rc.d ||
            die "no right to install packages."
        remove_policy=("${as_root[@]}" rm -f /usr/sbin/policy-rc.d)
    fi
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
    {
        "${apt[@]}" update || true # a stale list may still do
        "${apt[@]}" install -y --no-install-recommends "${packages[@]}"
    } </dev/null >"$tmp/apt.log" 2>&1 || {
        tail -n 20 "$tmp/apt.log" >&2
        die "apt-get could not install ${packages[*]}."
    }
    "${remove_policy[@]}"
    remove_policy=()
}

# root_of PACKAGE VERSION: where its root is, or will be.
root_of() {
    local release
    release=$(release_of "$1" "$2") || die "there is no $1 $2: --broker takes 4.0 or 4.3, --postgres takes 17."
    ((EUID == 0)) || die "$1 $2 runs in a root folder of its own, and that needs root."
    echo "$roots/$release-$1"
}

# The Debian mirror from which the system itself installs.
debian_mirror() {
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
        sed -n '1s,/*$,,p'
}

# make_root FOLDER PACKAGE VERSION: unless it is there. Of several at once, one makes it.
make_root() {
    local folder=$1 package=$2 release mirror
    release=$(release_of "$package" "$3")
    mkdir -p "$roots"
    exec {lock}>"$folder.lock"
    flock --nonblock "$lock" || {
        note "Waiting until somebody else has made $folder"
        run flock "$lock"
    }
    if [[ ! -d $folder ]]; then
        mirror=${LICET_TEST_MIRROR:-$(debian_mirror)}
        [[ $mirror ]] || die "apt knows no Debian mirror: run apt-get update, or set LICET_TEST_MIRROR to one."
        note "Making $folder: $package of Debian $release, from $mirror (some minutes, once)"
        half_made=$folder.part # which teardown removes, whatever ends this
        rm -rf "$half_made"
        # All later releases are made as sid is; an older debootstrap does not know their names.
        run unshare --mount debootstrap --variant=minbase --force-check-gpg --include="$package" \
            "$release" "$half_made" "$mirror" /usr/share/debootstrap/scripts/sid >"$tmp/debootstrap.log" 2>&1 || {
            tail -n 20 "$tmp/debootstrap.log" >&2
            die "debootstrap could not make $folder."
        }
        # A node looks up its own name, for which no name server is to be asked.
        printf '127.0.0.1 localhost\n::1 localhost\n' >"$half_made/etc/hosts"
        rm -rf "$half_made/var/cache/apt/archives" "$half_made/var/lib/apt/lists"
        mv "$half_made" "$folder"
        half_made=
    fi
    exec {lock}>&-
}

# open_folder IN ROOT FOLDER: makes FOLDER, which has this path outside ROOT and inside, and the
# array IN, the words before a command that is to run inside: none where ROOT is empty.
open_folder() {
    local -n in=$1
    in=()
    (umask 022 && mkdir -p "$2$3")
    [[ $2 ]] || return 0
    ln -s "$2$3" "$3"
    # No namespace but that of mounts: its processes, users and ports are the machine's.
    in=(unshare --root="$2" --mount-proc --wd="$3" --)
}
