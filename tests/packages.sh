# Installs the Debian packages that run.sh needs: packages that the system lacks, and newer servers,
# each in its own root folder.
#
# A root folder contains a minimal Debian system of a later release with one server. It is created
# once and then reused. An incomplete root folder is created again. The host system is not changed.
# A program in a root folder has its own mount namespace, which ends with the program, so no /proc
# stays mounted, even after SIGKILL.

roots=${LICET_TEST_ROOTS:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/licet-test}

# release_of PACKAGE VERSION: prints the Debian release that contains this version.
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
    command -v make >/dev/null || packages+=(make) # for jemalloc
    [[ ${LICET_TEST_AMQP_URL:-} || $broker_root || $(find_broker) ]] || packages+=(rabbitmq-server)
    [[ ${LICET_TEST_DATABASE_URL:-} || $database_root || -x $(find_database)/initdb ]] || packages+=(postgresql)
    [[ -x /usr/sbin/pgbouncer ]] || packages+=(pgbouncer)
    # For the sample in the README.
    /usr/bin/python3 -c 'import jwt, pika' 2>/dev/null || packages+=(python3-jwt python3-pika python3-cryptography)
    # For the JOSE libraries.
    /usr/bin/python3 -c 'import pip' 2>/dev/null || packages+=(python3-pip)
    command -v npm >/dev/null || packages+=(nodejs npm)
    [[ ! $broker_root$database_root ]] || command -v debootstrap >/dev/null ||
        packages+=(debootstrap debian-archive-keyring)
    ((${#packages[@]})) || return 0

    command -v apt-get >/dev/null || die "missing: ${packages[*]}. This is neither Debian nor Ubuntu," \
        "so install them yourself, or set LICET_TEST_AMQP_URL and LICET_TEST_DATABASE_URL."
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null ||
            die "missing: ${packages[*]}. Install them as root (sudo is not available), then run this again."
        as_root=(sudo)
    fi

    note "Installing ${packages[*]}"
    # Debian starts a service when it is installed, unless this file forbids it.
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$tmp/policy-rc.d"
        "${as_root[@]}" install -m 755 "$tmp/policy-rc.d" /usr/sbin/policy-rc.d ||
            die "there is no permission to install packages."
        remove_policy=("${as_root[@]}" rm -f /usr/sbin/policy-rc.d)
    fi
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
    {
        "${apt[@]}" update || true # an outdated list may be sufficient
        "${apt[@]}" install -y --no-install-recommends "${packages[@]}"
    } </dev/null >"$tmp/apt.log" 2>&1 || {
        tail -n 20 "$tmp/apt.log" >&2
        die "apt-get could not install ${packages[*]}."
    }
    "${remove_policy[@]}"
    remove_policy=()
}

# The folder with the JOSE libraries of docs/protocol.md, in the versions that were tried last.
jose_python=('pyjwt[crypto]==2.15.1' joserfc==1.8.0)
jose_javascript=(jose@6.2.18)
jose_folder=$roots/jose-$(cksum <<<"${jose_python[*]} ${jose_javascript[*]} $(/usr/bin/python3 -V 2>&1)" | cut -d ' ' -f 1)

# Installs these libraries, unless the folder exists.
install_jose() {
    mkdir -p "$roots"
    exec {lock}>"$jose_folder.lock"
    run flock "$lock"
    if [[ ! -d $jose_folder ]]; then
        note "Installing ${jose_python[*]} ${jose_javascript[*]} in $jose_folder"
        half_made=$jose_folder.part
        rm -rf "$half_made"
        {
            run /usr/bin/python3 -m pip install --quiet --target "$half_made/python" "${jose_python[@]}" &&
            run npm install --silent --no-save --prefix "$half_made" "${jose_javascript[@]}"
        } >"$tmp/jose.log" 2>&1 || {
            tail -n 20 "$tmp/jose.log" >&2
            die "the JOSE libraries could not be installed."
        }
        mv "$half_made" "$jose_folder"
        half_made=
    fi
    exec {lock}>&-
}

# root_of PACKAGE VERSION: prints the path of its root folder, which may not exist yet.
root_of() {
    local release
    release=$(release_of "$1" "$2") || die "there is no $1 $2: --broker takes 4.0 or 4.3, --postgres takes 17."
    ((EUID == 0)) || die "$1 $2 runs in its own root folder, which requires root privileges."
    echo "$roots/$release-$1"
}

# Prints the Debian mirror that the system itself uses.
debian_mirror() {
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
        sed -n '1s,/*$,,p'
}

# make_root FOLDER PACKAGE VERSION: creates the root folder unless it exists. If several scripts
# need it at the same time, one creates it and the others wait.
make_root() {
    local folder=$1 package=$2 release mirror
    release=$(release_of "$package" "$3")
    mkdir -p "$roots"
    exec {lock}>"$folder.lock"
    flock --nonblock "$lock" || {
        note "Waiting for another process that creates $folder"
        run flock "$lock"
    }
    if [[ ! -d $folder ]]; then
        mirror=${LICET_TEST_MIRROR:-$(debian_mirror)}
        [[ $mirror ]] || die "apt has no Debian mirror: run apt-get update, or set LICET_TEST_MIRROR."
        note "Creating $folder with $package of Debian $release from $mirror (takes a few minutes, only once)"
        half_made=$folder.part # teardown removes it, however this script ends
        rm -rf "$half_made"
        # The script for sid works for all later releases. An older debootstrap does not know their
        # names.
        run unshare --mount debootstrap --variant=minbase --force-check-gpg --include="$package" \
            "$release" "$half_made" "$mirror" /usr/share/debootstrap/scripts/sid >"$tmp/debootstrap.log" 2>&1 || {
            tail -n 20 "$tmp/debootstrap.log" >&2
            die "debootstrap could not create $folder."
        }
        # A RabbitMQ node resolves its own host name, which must not depend on a name server.
        printf '127.0.0.1 localhost\n::1 localhost\n' >"$half_made/etc/hosts"
        rm -rf "$half_made/var/cache/apt/archives" "$half_made/var/lib/apt/lists"
        mv "$half_made" "$folder"
        half_made=
    fi
    exec {lock}>&-
}

# open_folder IN ROOT FOLDER: creates FOLDER, which has the same path inside and outside ROOT. Sets
# the array IN to the words that run a command inside ROOT. The array is empty if ROOT is empty.
open_folder() {
    local -n in=$1
    in=()
    (umask 022 && mkdir -p "$2$3")
    [[ $2 ]] || return 0
    ln -s "$2$3" "$3"
    # Only the mount namespace is separate. Processes, users and ports are those of the host.
    in=(unshare --root="$2" --mount-proc --wd="$3" --)
}
