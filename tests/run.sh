#!/usr/bin/env bash
# Builds Licet and runs all of its tests against a private RabbitMQ and a private PostgreSQL.
#
# Both are started on free loopback ports with their data in a temporary folder, and are stopped
# when this script ends, however it ends. The system's own services are never touched.
set -euo pipefail

usage() {
    cat <<'END'
Usage: tests/run.sh [OPTION] [-- TEST-ARGUMENT...]
       tests/run.sh --bench -- BENCH-ARGUMENT...

Installs missing packages (Debian and Ubuntu), starts a private RabbitMQ and a private PostgreSQL,
builds, runs every test, and stops both servers. Arguments after -- are passed to the test
binaries: tests/run.sh -- purchase --nocapture

  --broker 4.0|4.3   use RabbitMQ 4.0 (Debian 13) or 4.3 (Debian forky) instead of the installed one
  --postgres 17      use PostgreSQL 17 (Debian 13) instead of the installed one
  --upgrade          run only the rolling upgrade. If LICET_TEST_PROGRAMS names a folder with the
                     programs of an earlier release, they run on the tables of this release
  --report           write the figures of the run into docs/reliability.md
  --bench            build as for production, and run licet-bench on servers with production settings:
                     tests/run.sh --bench -- full --svg full.svg
  --cluster          with --bench -- scale: also start a cluster of three nodes
  --services-only    start the two servers, print the export lines, wait for Ctrl-C
  --install-only     install missing packages, start nothing
  --help             print this text

The newer servers run in minimal Debian systems, which debootstrap creates once; this needs root.
A complete run that passes records the server versions in target/figures.
  LICET_TEST_ROOTS            the folder for these systems and for libraries of other languages; default ~/.cache/licet-test
  LICET_TEST_MIRROR           the Debian mirror to create them from; default: the mirror that apt uses

Running services are used instead if these variables are set:
  LICET_TEST_AMQP_URL         amqp://user:password@host:port/%2f
  LICET_TEST_MANAGEMENT_URL   http://user:password@host:port, the management API of that broker
  LICET_TEST_DATABASE_URL     postgres://role@host:port/database; the role may create databases
  LICET_TEST_BROKER_RESTART   a program that restarts that broker, or passes its arguments to
                              rabbitmqctl; without it, tests whose name contains broker_restart
                              or our_own_broker are skipped
END
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/packages.sh"
source "$here/services.sh"

note() { echo "$*" >&2; }
die() { note "tests/run.sh: $*"; exit 1; }

# --- Cleanup ----------------------------------------------------------------------------------

# end SIGNAL GROUP: sends the signal to a process group, waits for its end, and kills it after 10 s.
# Fails if there is no such group.
end() {
    local i
    kill -s "$1" -- "-$2" || return
    for ((i = 0; i < 100; i++)); do
        alive "$2" || return 0
        sleep 0.1
    done
    kill -s KILL -- "-$2"
}

# end_session ID: kills all processes of a session, including those in other process groups (servers
# that tests started).
end_session() {
    local i file line state session left
    for ((i = 0; i < 50; i++)); do
        left=''
        for file in /proc/[0-9]*/stat; do
            { read -r line <"$file"; } 2>/dev/null || continue
            read -r state _ _ session _ <<<"${line##*) }"
            [[ $state != Z && $session == "$1" ]] || continue
            kill -s KILL "${file//[!0-9]/}"
            left=yes
        done
        [[ $left ]] || return 0
    done
}

# Prints nothing, so that the output ends with the lines of the tests.
teardown() {
    local code=$?
    trap '' INT TERM HUP
    set +e
    exec 2>/dev/null
    [[ -z $job_pid ]] || { end TERM "$job_pid"; end_session "$job_pid"; } # with processes that a failed test left behind
    # The servers' data is deleted, so they need no clean shutdown.
    for file in "$tmp"/*/broker.pid; do
        [[ ! -s $file ]] || end KILL "$(<"$file")"
    done
    for pid in $(jobs -rp); do
        end QUIT "$pid" || kill -s KILL "$pid" # it may not lead a process group yet
    done
    "${remove_policy[@]}"
    cd /
    local folders=("$tmp" "$broker_root$tmp" "$database_root$tmp" ${half_made:+"$half_made"})
    rm -rf "${folders[@]}" || { sleep 1 && rm -rf "${folders[@]}"; }
    exit "$code"
}

# Runs a command in the background and waits for it, so that this script can handle signals at once.
run() {
    launch "$@"
    job_pid=$!
    wait "$job_pid"
}

# Records the server versions with which a run passed. Only a complete run counts: no test was
# skipped, and both versions are known.
record() {
    local passed ignored filtered
    [[ $broker_version && $database_version ]] || return 0
    read -r passed ignored filtered < <(awk '/^test result: ok\./ { passed += $4; ignored += $8; filtered += $12 }
        END { print passed, ignored, filtered }' "$tmp/tests.log")
    ((ignored == 0 && filtered == 0)) || return 0
    local folder=${LICET_TEST_FIGURES:-target/figures}
    mkdir -p "$folder"
    printf '{"rabbitmq": "%s", "postgresql": "%s", "passed": "%s", "tests": %d}\n' \
        "$broker_version" "$database_version" "$(date -u +%F)" "$passed" \
        >"$folder/versions-${broker_version%.*}-${database_version%%.*}.json"
}

# --- Main -------------------------------------------------------------------------------------

mode='test' report='' upgrade='' cluster='' broker_wanted='' database_wanted=''
while (($#)); do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --report) report=yes ;;
        --upgrade) upgrade=yes ;;
        --bench) mode=bench ;;
        --cluster) cluster=yes ;;
        --services-only) mode=services ;;
        --install-only) mode=install ;;
        --broker=* | --postgres=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
        --broker) broker_wanted=${2:-none}; shift ;;
        --postgres) database_wanted=${2:-none}; shift ;;
        --) shift; break ;;
        *) note "tests/run.sh: unknown argument $1 (arguments for the tests follow --)"; usage >&2; exit 2 ;;
    esac
    shift || true
done

root=${here%/*}
cd "$root"
if [[ $mode == test || $mode == bench ]]; then
    command -v cargo >/dev/null || PATH=~/.cargo/bin:$PATH # where rustup installs it
    command -v cargo >/dev/null ||
        die "cargo is missing: install Rust as https://rustup.rs says, and run this again."
fi

[[ ! $broker_wanted || ! ${LICET_TEST_AMQP_URL:-} ]] ||
    die "use either --broker $broker_wanted or LICET_TEST_AMQP_URL, not both."
[[ ! $database_wanted || ! ${LICET_TEST_DATABASE_URL:-} ]] ||
    die "use either --postgres $database_wanted or LICET_TEST_DATABASE_URL, not both."
[[ ! $cluster || ($mode == bench && ${1:-} == scale && ! ${LICET_TEST_AMQP_URL:-}) ]] ||
    die "--cluster needs --bench -- scale and a private broker: unset LICET_TEST_AMQP_URL."
broker_root='' database_root=''
[[ ! $broker_wanted ]] || broker_root=$(root_of rabbitmq-server "$broker_wanted")
[[ ! $database_wanted ]] || database_root=$(root_of postgresql "$database_wanted")

broker='' broker_name=licet-test broker_version='' database='' database_version='' job_pid='' half_made='' remove_policy=() cluster_urls=()
tmp=$(mktemp -d "${TMPDIR:-/tmp}/licet-test.XXXXXX")
chmod 711 "$tmp" # the user postgres must be able to reach its folder
trap teardown EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

install_missing
[[ ! $broker_root ]] || make_root "$broker_root" rabbitmq-server "$broker_wanted"
[[ ! $database_root ]] || make_root "$database_root" postgresql "$database_wanted"
[[ $mode == bench || $mode == install || $upgrade ]] || install_jose
[[ $mode != install ]] || exit 0

choose_ports
[[ ${LICET_TEST_AMQP_URL:-} ]] || launch_broker # takes longest, so start it first
[[ ${LICET_TEST_DATABASE_URL:-} ]] || launch_database
[[ -z $database ]] || await_database
[[ -z $broker ]] || await_broker
ask_versions
export LICET_TEST_JOSE=$jose_folder
# The root folders in which tests find the programs of these servers.
[[ ! $broker_root ]] || export LICET_TEST_BROKER_ROOT=$broker_root
[[ ! $database_root ]] || export LICET_TEST_DATABASE_ROOT=$database_root

if [[ $mode == services ]]; then
    for name in LICET_TEST_{AMQP_URL,MANAGEMENT_URL,DATABASE_URL,BROKER_RESTART,BROKER_ROOT,DATABASE_ROOT,JOSE}; do
        [[ -z ${!name:-} ]] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    note "Both servers run until you press Ctrl-C."
    run sleep infinity
fi

if [[ $mode == bench ]]; then
    export LICET_AMQP_URL=$LICET_TEST_AMQP_URL LICET_DATABASE_URL=$LICET_TEST_DATABASE_URL
    run cargo build --profile dist --locked --bins --features licet-workers/jemalloc,licet-bench/jemalloc
    [[ ! $cluster ]] || launch_cluster
    run "$root/target/dist/licet-bench" "$@" "${cluster_urls[@]/#/--node=}"
    exit
fi

[[ ! $upgrade ]] || set -- a_rolling_upgrade "$@"
skipped=()
if [[ -z ${LICET_TEST_BROKER_RESTART:-} ]]; then
    echo "Tests that restart or configure the broker are skipped: LICET_TEST_BROKER_RESTART is not set."
    skipped=(--skip broker_restart --skip our_own_broker)
fi
export TMPDIR=$tmp # so that the files of an interrupted test are removed, too
run cargo build --locked --bins # the programs as users get them, without test features
run bash -o pipefail -c 'cargo test --workspace --no-fail-fast -- --include-ignored "${@:2}" | tee "$1"' \
    - "$tmp/tests.log" "${skipped[@]}" "$@"
record
[[ ! $report ]] || run cargo run --quiet --package licet-tests -- report
