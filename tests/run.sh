#!/usr/bin/env bash
# Builds Licet and runs all of its tests against a RabbitMQ and a PostgreSQL of their own.
#
# Both are started on free loopback ports with their data in a temporary folder, and are gone
# when this script ends, however it ends. The system's own services are never touched.
set -euo pipefail

usage() {
    cat <<'END'
Usage: tests/run.sh [OPTION] [-- TEST-ARGUMENT...]

Installs what is missing (Debian and Ubuntu), starts a private RabbitMQ and a private
PostgreSQL, builds, runs every test, and takes both servers down again. What follows --
goes to the test binaries: tests/run.sh -- purchase --nocapture

  --broker 4.0|4.3   not the installed RabbitMQ but this one, of Debian 13 or of forky
  --postgres 17      not the installed PostgreSQL but this one, of Debian 13
  --services-only    start the two servers, print the export lines, wait for Ctrl-C
  --install-only     install what is missing, start nothing
  --help             this text

The newer servers run in minimal Debian systems, which debootstrap makes once; this needs root.
A full run that passes keeps the versions it ran on in target/figures.
  LICET_TEST_ROOTS            the folder for these systems; default ~/.cache/licet-test
  LICET_TEST_MIRROR           where to make them from; default: the mirror that apt uses

Services that already run are used instead, if these are set:
  LICET_TEST_AMQP_URL         amqp://user:password@host:port/%2f
  LICET_TEST_DATABASE_URL     postgres://role@host:port/database; the role may create databases
  LICET_TEST_BROKER_RESTART   a program that restarts that broker; without it, tests whose
                              name contains broker_restart are left out
END
}

source "${BASH_SOURCE[0]%/*}/packages.sh"

# --- What both the script and the generated broker-restart need ------------------------------

note() { echo "$*" >&2; }
die() { note "tests/run.sh: $*"; exit 1; }

# alive PID: whether it, or any process of the group that it leads, is left.
# A zombie does not count: in a container nobody may ever collect it.
alive() {
    local file line state group
    for file in /proc/[0-9]*/stat; do
        { read -r line <"$file"; } 2>/dev/null || continue
        read -r state _ group _ <<<"${line##*) }"
        [[ $state == Z || ($group != "$1" && $file != "/proc/$1/stat") ]] || return 0
    done
    return 1
}

# await WHAT SECONDS PID LOG COMMAND...: until COMMAND succeeds.
await() {
    local what=$1 deadline=$((SECONDS + $2)) pid=$3 log=$4 trouble=
    shift 4
    until "$@" >/dev/null 2>&1; do
        if ! alive "$pid"; then
            trouble="$what ended while it was starting"
        elif ((SECONDS >= deadline)); then
            trouble="$what did not answer in time"
        fi
        if [[ $trouble ]]; then
            note "--- the end of its log:"
            tail -n 30 "$log" >&2 || true
            die "$trouble."
        fi
        sleep 0.1
    done
}

# Only what is set here: neither the caller's nor the system's settings may reach this node.
broker_environment() {
    unset "${!RABBITMQ_@}" "${!ERL_@}" NOTIFY_SOCKET
    local loopback='-kernel inet_dist_use_interface {127,0,0,1}'
    export HOME=$broker LANG=C.UTF-8 # the cookie is written into HOME
    # epmd is one daemon for all nodes of a machine: this node has its own.
    export ERL_EPMD_PORT=$epmd_port ERL_EPMD_ADDRESS=127.0.0.1
    export RABBITMQ_NODENAME=licet-test@localhost
    export RABBITMQ_NODE_PORT=$amqp_port RABBITMQ_DIST_PORT=$dist_port
    export RABBITMQ_MNESIA_BASE=$broker/data RABBITMQ_LOG_BASE=$broker/log RABBITMQ_LOGS=-
    export RABBITMQ_PID_FILE=$broker/node.pid RABBITMQ_ENABLED_PLUGINS_FILE=$broker/plugins
    export RABBITMQ_CONFIG_FILE=$broker/rabbitmq.conf RABBITMQ_CONFIG_FILES=$broker/conf.d
    export RABBITMQ_ADVANCED_CONFIG_FILE=$broker/advanced.config
    export RABBITMQ_CONF_ENV_FILE=$broker/rabbitmq-env.conf
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=$loopback RABBITMQ_CTL_ERL_ARGS=$loopback
}

# In a session of its own, so that Ctrl-C leaves it to teardown.
launch() { setsid env --default-signal "$@" </dev/null & }

start_broker() (
    trap '' INT TERM # until teardown can find it
    broker_environment
    cd "$broker"
    launch "${in_broker[@]}" "$broker_bin/rabbitmq-server" >>broker.log 2>&1
    echo $! >broker.pid
    await RabbitMQ 10 $! broker.log kill -0 -- "-$!" # it leads a group of its own
)

stop_broker() (
    broker_environment
    cd "$broker"
    timeout 60 "${in_broker[@]}" "$broker_bin/rabbitmqctl" stop "$RABBITMQ_PID_FILE" </dev/null >>broker.log 2>&1 ||
        die "rabbitmqctl could not stop the broker: $(tail -n 5 broker.log)"
    for ((i = 0; i < 100; i++)); do
        alive "$(<broker.pid)" || { rm broker.pid && return; }
        sleep 0.1
    done
    die "the broker did not end after rabbitmqctl stop."
)

# The port opens before the node is done: only an answer to the protocol header counts.
broker_answers() (
    exec 3<>"/dev/tcp/127.0.0.1/$amqp_port"
    printf 'AMQP\0\0\11\1' >&3
    IFS= read -r -t 2 -N 1 first <&3
    [[ $first == $'\1' ]]
)

await_broker() { await RabbitMQ 90 "$(<"$broker/broker.pid")" "$broker/broker.log" broker_answers; }

# --- Starting ---------------------------------------------------------------------------------

port_open() ( exec 3<>"/dev/tcp/127.0.0.1/$1" )

# Four ports in a row, below those that the kernel gives to outgoing connections.
choose_ports() {
    local base port
    while :; do
        base=$((10000 + 4 * (RANDOM % 5000)))
        for ((port = base; port < base + 4; port++)); do
            ! port_open "$port" 2>/dev/null || continue 2
        done
        break
    done
    epmd_port=$base amqp_port=$((base + 1)) dist_port=$((base + 2)) database_port=$((base + 3))
}

launch_broker() {
    broker=$tmp/broker
    broker_bin=$(find_broker "$broker_root") || die "the package rabbitmq-server has no rabbitmq_server-*/sbin."
    broker_bin=${broker_bin#"$broker_root"}
    open_folder in_broker "$broker_root" "$broker"
    local version=${broker_bin%/sbin}
    version=${version##*rabbitmq_server-}
    # Quorum queues had neither message TTLs nor at-least-once dead letters before.
    [[ $(printf '%s\n' 3.10 "$version" | sort -V | head -n 1) == 3.10 ]] ||
        die "RabbitMQ $version is too old, 3.10 is needed: set LICET_TEST_AMQP_URL to a newer one."
    mkdir -p "$broker/conf.d"
    echo '[].' >"$broker/plugins"
    cat >"$broker/rabbitmq.conf" <<END
listeners.tcp.1 = 127.0.0.1:$amqp_port
max_message_size = 1048576
log.console = true
END
    # Not as -daemon, so that its pid is known; and first, or Erlang would start a daemon.
    launch "${in_broker[@]}" epmd -port "$epmd_port" -address 127.0.0.1 >"$broker/epmd.log" 2>&1
    await epmd 10 $! "$broker/epmd.log" port_open "$epmd_port"
    start_broker

    # The same functions with the same values, as a program that the tests can call.
    {
        printf '#!/usr/bin/env bash\n# Stops the private broker cleanly, and starts it again.\nset -euo pipefail\n'
        declare -p broker broker_bin in_broker epmd_port amqp_port dist_port
        declare -f note die alive await broker_environment launch start_broker stop_broker broker_answers await_broker
        printf 'stop_broker\nstart_broker\nawait_broker\n'
    } >"$tmp/broker-restart"
    chmod 755 "$tmp/broker-restart"

    export LICET_TEST_AMQP_URL=amqp://guest:guest@127.0.0.1:$amqp_port/%2f
    export LICET_TEST_BROKER_RESTART=$tmp/broker-restart
}

launch_database() {
    database=$tmp/database
    database_bin=$(find_database "$database_root") || die "the package postgresql has no postgresql/*/bin."
    database_bin=${database_bin#"$database_root"}
    open_folder in_database "$database_root" "$database"
    if ((EUID == 0)); then # PostgreSQL refuses to run as root
        chmod 711 "$tmp"
        "${in_database[@]}" chown postgres: "$database"
        in_database+=(setpriv --reuid=postgres --regid=postgres --init-groups)
    fi
    cd "$database" # where its owner may be, unlike the caller's folder
    # Not synced while it is made, since it is new; the server itself runs with fsync.
    "${in_database[@]}" "$database_bin/initdb" -D "$database/data" -U licet -A trust -E UTF8 \
        --no-locale --no-sync </dev/null >"$database/database.log" 2>&1 || {
        tail -n 20 "$database/database.log" >&2
        die "initdb could not make a database."
    }
    launch "${in_database[@]}" "$database_bin/postgres" -D "$database/data" -p "$database_port" \
        -k "$database" -c listen_addresses=127.0.0.1 -c max_connections=200 -c fsync=on \
        >>"$database/database.log" 2>&1
    database_pid=$!
    cd "$root"
    export LICET_TEST_DATABASE_URL=postgres://licet@127.0.0.1:$database_port/postgres
}

await_database() {
    await PostgreSQL 60 "$database_pid" "$database/database.log" \
        "${in_database[@]}" "$database_bin/pg_isready" -h 127.0.0.1 -p "$database_port" -U licet -d postgres
}

# Asked from the servers themselves; empty for one that is not ours.
ask_versions() {
    [[ ! $broker ]] || broker_version=$(
        broker_environment
        "${in_broker[@]}" "$broker_bin/rabbitmq-diagnostics" --quiet server_version </dev/null
    ) || die "RabbitMQ does not tell its version."
    [[ ! $database ]] || database_version=$(
        cd "$database"
        "${in_database[@]}" "$database_bin/psql" -h 127.0.0.1 -p "$database_port" -U licet -d postgres -XAtc \
            "SELECT split_part(current_setting('server_version'), ' ', 1)" </dev/null
    ) || die "PostgreSQL does not tell its version."
    [[ ! $broker_wanted || $broker_version == "$broker_wanted".* ]] ||
        die "$broker_root has RabbitMQ $broker_version by now, not $broker_wanted."
    [[ ! $database_wanted || $database_version == "$database_wanted".* ]] ||
        die "$database_root has PostgreSQL $database_version by now, not $database_wanted."
    note "RabbitMQ ${broker_version:-as given}, PostgreSQL ${database_version:-as given}."
}

# --- Ending -----------------------------------------------------------------------------------

# end SIGNAL GROUP: asks, waits, and then insists. Fails if there is no such group.
end() {
    local i
    kill -s "$1" -- "-$2" || return
    for ((i = 0; i < 100; i++)); do
        alive "$2" || return 0
        sleep 0.1
    done
    kill -s KILL -- "-$2"
}

# end_session ID: with what made itself a group of its own, as the servers that tests start.
end_session() {
    local file line state session left=1
    while ((left)); do
        left=0
        for file in /proc/[0-9]*/stat; do
            { read -r line <"$file"; } 2>/dev/null || continue
            read -r state _ _ session _ <<<"${line##*) }"
            [[ $state != Z && $session == "$1" ]] || continue
            kill -s KILL "${file//[!0-9]/}" && left=1
        done
    done
}

# Says nothing: the last lines are to be those of the tests.
teardown() {
    local code=$?
    trap '' INT TERM HUP
    set +e
    exec 2>/dev/null
    [[ -z $job_pid ]] || { end TERM "$job_pid"; end_session "$job_pid"; } # with what a failed test left running
    # The servers' data is thrown away, so there is nothing for them to bring into order.
    [[ ! -s $tmp/broker/broker.pid ]] || end KILL "$(<"$tmp/broker/broker.pid")"
    for pid in $(jobs -rp); do
        end QUIT "$pid" || kill -s KILL "$pid" # so early that it does not lead a group yet
    done
    "${remove_policy[@]}"
    cd /
    local folders=("$tmp" "$broker_root$tmp" "$database_root$tmp" ${half_made:+"$half_made"})
    rm -rf "${folders[@]}" || { sleep 1 && rm -rf "${folders[@]}"; }
    exit "$code"
}

# In the background and waited for, so that a signal to this script is heard at once.
run() {
    launch "$@"
    job_pid=$!
    wait "$job_pid"
}

# What passed on which versions. Only a whole run counts: nothing left out, and no server that we
# do not know.
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

# --- All of it --------------------------------------------------------------------------------

mode='test' broker_wanted='' database_wanted=''
while (($#)); do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --services-only) mode=services ;;
        --install-only) mode=install ;;
        --broker=* | --postgres=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
        --broker) broker_wanted=${2:?--broker needs a version}; shift ;;
        --postgres) database_wanted=${2:?--postgres needs a version}; shift ;;
        --) shift; break ;;
        *) note "tests/run.sh: unknown argument $1 (arguments for the tests follow --)"; usage >&2; exit 2 ;;
    esac
    shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
if [[ $mode == test ]]; then
    command -v cargo >/dev/null || PATH=~/.cargo/bin:$PATH # where rustup puts it
    command -v cargo >/dev/null ||
        die "cargo is missing: install Rust as https://rustup.rs says, and run this again."
fi

[[ ! $broker_wanted || ! ${LICET_TEST_AMQP_URL:-} ]] ||
    die "either --broker $broker_wanted or LICET_TEST_AMQP_URL: unset one of them."
[[ ! $database_wanted || ! ${LICET_TEST_DATABASE_URL:-} ]] ||
    die "either --postgres $database_wanted or LICET_TEST_DATABASE_URL: unset one of them."
broker_root='' database_root=''
[[ ! $broker_wanted ]] || broker_root=$(root_of rabbitmq-server "$broker_wanted")
[[ ! $database_wanted ]] || database_root=$(root_of postgresql "$database_wanted")

broker='' broker_version='' database='' database_version='' job_pid='' half_made='' remove_policy=()
tmp=$(mktemp -d "${TMPDIR:-/tmp}/licet-test.XXXXXX")
trap teardown EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

install_missing
[[ ! $broker_root ]] || make_root "$broker_root" rabbitmq-server "$broker_wanted"
[[ ! $database_root ]] || make_root "$database_root" postgresql "$database_wanted"
[[ $mode != install ]] || exit 0

choose_ports
[[ ${LICET_TEST_AMQP_URL:-} ]] || launch_broker # takes longest, so it starts first
[[ ${LICET_TEST_DATABASE_URL:-} ]] || launch_database
[[ -z $database ]] || await_database
[[ -z $broker ]] || await_broker
ask_versions
# Where tests find the programs of these servers, if not where the system has them.
[[ ! $broker_root ]] || export LICET_TEST_BROKER_ROOT=$broker_root
[[ ! $database_root ]] || export LICET_TEST_DATABASE_ROOT=$database_root

if [[ $mode == services ]]; then
    for name in LICET_TEST_{AMQP_URL,DATABASE_URL,BROKER_RESTART,BROKER_ROOT,DATABASE_ROOT}; do
        [[ -z ${!name:-} ]] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    note "Both run until this is interrupted (Ctrl-C)."
    run sleep infinity
fi

leave_out=()
if [[ -z ${LICET_TEST_BROKER_RESTART:-} ]]; then
    echo "The broker-restart test is left out: LICET_TEST_BROKER_RESTART does not say how to restart the given broker."
    leave_out=(--skip broker_restart)
fi
export TMPDIR=$tmp # so that what an interrupted test leaves is gone too
run cargo build --workspace --bins
run bash -o pipefail -c 'cargo test --workspace --no-fail-fast -- --include-ignored "${@:2}" | tee "$1"' \
    - "$tmp/tests.log" "${leave_out[@]}" "$@"
record
