# Functions for the two servers of a test run. They start each server, wait for it, ask for its
# version, and stop the broker.
#
# run.sh sources this file. The functions that start and stop the broker are also written into a
# separate program, broker-restart, which the tests call.

# --- Functions for both run.sh and the generated program broker-restart -----------------------

# alive PID: succeeds if the process, or any process of the group that it leads, still runs. A
# zombie does not count, because in a container it may never be reaped.
alive() {
    local file line state group
    for file in /proc/[0-9]*/stat; do
        { read -r line <"$file"; } 2>/dev/null || continue
        read -r state _ group _ <<<"${line##*) }"
        [[ $state == Z || ($group != "$1" && $file != "/proc/$1/stat") ]] || return 0
    done
    return 1
}

# await WHAT SECONDS PID LOG COMMAND...: waits until COMMAND succeeds. WHAT is the name of the
# server.
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

# Sets the whole environment of the node. Neither the caller's nor the system's settings may affect
# it.
broker_environment() {
    unset "${!RABBITMQ_@}" "${!ERL_@}" NOTIFY_SOCKET
    local loopback='-kernel inet_dist_use_interface {127,0,0,1}'
    export HOME=$broker LANG=C.UTF-8 # the cookie is written into HOME
    # By default, one epmd daemon serves all nodes of a machine. This node has its own.
    export ERL_EPMD_PORT=$epmd_port ERL_EPMD_ADDRESS=127.0.0.1
    export RABBITMQ_NODENAME=$broker_name@localhost
    export RABBITMQ_NODE_PORT=$amqp_port RABBITMQ_DIST_PORT=$dist_port
    export RABBITMQ_MNESIA_BASE=$broker/data RABBITMQ_LOG_BASE=$broker/log RABBITMQ_LOGS=-
    export RABBITMQ_PID_FILE=$broker/node.pid RABBITMQ_ENABLED_PLUGINS_FILE=$broker/plugins
    export RABBITMQ_CONFIG_FILE=$broker/rabbitmq.conf RABBITMQ_CONFIG_FILES=$broker/conf.d
    export RABBITMQ_ADVANCED_CONFIG_FILE=$broker/advanced.config
    export RABBITMQ_CONF_ENV_FILE=$broker/rabbitmq-env.conf
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=$loopback
    # On a machine that is busy with other tests, rabbitmqctl may need a long time to reach the
    # node.
    export RABBITMQ_CTL_ERL_ARGS="$loopback -kernel net_setuptime 60"
}

# Starts a command in its own session, so that Ctrl-C does not stop it. teardown does.
launch() { setsid env --default-signal "$@" </dev/null & }

start_broker() (
    trap '' INT TERM # until broker.pid exists, which teardown needs
    broker_environment
    cd "$broker"
    launch "${in_broker[@]}" "$broker_bin/rabbitmq-server" >>broker.log 2>&1
    echo $! >broker.pid
    await RabbitMQ 10 $! broker.log kill -0 -- "-$!" # it leads its own process group
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

# The port opens before the node is ready, so only an answer to the protocol header counts.
broker_answers() (
    exec 3<>"/dev/tcp/127.0.0.1/$amqp_port"
    printf 'AMQP\0\0\11\1' >&3
    IFS= read -r -t 2 -N 1 first <&3
    [[ $first == $'\1' ]]
)

await_broker() { await RabbitMQ 90 "$(<"$broker/broker.pid")" "$broker/broker.log" broker_answers; }

# --- Startup ----------------------------------------------------------------------------------

port_open() ( exec 3<>"/dev/tcp/127.0.0.1/$1" )

# Chooses sixteen free consecutive ports, below the range that the kernel uses for outgoing connections.
choose_ports() {
    local base port
    while :; do
        base=$((10000 + 16 * (RANDOM % 1250)))
        for ((port = base; port < base + 16; port++)); do
            ! port_open "$port" 2>/dev/null || continue 2
        done
        break
    done
    epmd_port=$base amqp_port=$((base + 1)) dist_port=$((base + 2)) database_port=$((base + 3))
    management_port=$((base + 4))
    # The next two ports after each are those of its distribution and its management API.
    cluster_ports=("$((base + 5))" "$((base + 8))" "$((base + 11))")
}

configure_broker() {
    mkdir -p "$broker/conf.d"
    echo '[rabbitmq_consistent_hash_exchange,rabbitmq_management].' >"$broker/plugins"
    cat >"$broker/rabbitmq.conf" <<END
listeners.tcp.1 = 127.0.0.1:$amqp_port
max_message_size = 1048576
log.console = true
management.tcp.ip = 127.0.0.1
management.tcp.port = $management_port
END
}

launch_broker() {
    broker=$tmp/broker
    broker_bin=$(find_broker "$broker_root") || die "the package rabbitmq-server has no rabbitmq_server-*/sbin."
    broker_bin=${broker_bin#"$broker_root"}
    open_folder in_broker "$broker_root" "$broker"
    local version=${broker_bin%/sbin}
    version=${version##*rabbitmq_server-}
    # Before 3.10, quorum queues had neither message TTLs nor at-least-once dead-lettering.
    [[ $(printf '%s\n' 3.10 "$version" | sort -V | head -n 1) == 3.10 ]] ||
        die "RabbitMQ $version is too old. Version 3.10 or later is needed: set LICET_TEST_AMQP_URL to a newer broker."
    configure_broker
    # epmd runs without -daemon, so that its process id is known. It starts first, because Erlang
    # would otherwise start a daemon.
    launch "${in_broker[@]}" epmd -port "$epmd_port" -address 127.0.0.1 >"$broker/epmd.log" 2>&1
    await epmd 10 $! "$broker/epmd.log" port_open "$epmd_port"
    start_broker

    # The program contains the same functions and values. Tests can call it.
    {
        printf '#!/usr/bin/env bash\n# Stops the private broker cleanly, and starts it again.\nset -euo pipefail\n'
        declare -p broker broker_name broker_bin in_broker epmd_port amqp_port dist_port
        declare -f note die alive await broker_environment launch start_broker stop_broker broker_answers await_broker
        # With arguments, it runs the broker's rabbitmqctl instead.
        printf 'if (($#)); then broker_environment; cd "$broker"; exec "${in_broker[@]}" "$broker_bin/rabbitmqctl" "$@"; fi\n'
        printf 'stop_broker\nstart_broker\nawait_broker\n'
    } >"$tmp/broker-restart"
    chmod 755 "$tmp/broker-restart"

    export LICET_TEST_AMQP_URL=amqp://guest:guest@127.0.0.1:$amqp_port/%2f
    export LICET_TEST_BROKER_RESTART=$tmp/broker-restart
    export LICET_TEST_MANAGEMENT_URL=http://guest:guest@127.0.0.1:$management_port
}

# Starts three more nodes as a separate cluster and adds their URLs to cluster_urls.
launch_cluster() {
    local index number names=(licet-test-{1,2,3}) one="$broker"
    for index in 0 1 2; do
        (
            broker=$tmp/node-$index broker_name=${names[index]} amqp_port=${cluster_ports[index]}
            dist_port=$((amqp_port + 1)) management_port=$((amqp_port + 2))
            open_folder in_broker "$broker_root" "$broker"
            configure_broker
            {
                echo 'cluster_formation.peer_discovery_backend = classic_config'
                for number in 1 2 3; do
                    echo "cluster_formation.classic_config.nodes.$number = ${names[number - 1]}@localhost"
                done
                echo 'cluster_partition_handling = pause_minority'
            } >>"$broker/rabbitmq.conf"
            install -m 400 "$one/.erlang.cookie" "$broker/.erlang.cookie"
            start_broker
            ((index == 2)) || exit 0
            await_broker # all three nodes are started now
            broker_environment
            cd "$broker"
            timeout 90 "${in_broker[@]}" "$broker_bin/rabbitmqctl" --quiet await_online_nodes 3 </dev/null ||
                die "the three nodes did not become a cluster."
        )
    done
    for index in 0 1 2; do
        (broker=$tmp/node-$index amqp_port=${cluster_ports[index]} && await_broker)
        cluster_urls+=("amqp://guest:guest@127.0.0.1:${cluster_ports[index]}/%2f")
    done
}

launch_database() {
    database=$tmp/database
    database_bin=$(find_database "$database_root") || die "the package postgresql has no postgresql/*/bin."
    database_bin=${database_bin#"$database_root"}
    open_folder in_database "$database_root" "$database"
    if ((EUID == 0)); then # PostgreSQL refuses to run as root
        "${in_database[@]}" chown postgres: "$database"
        in_database+=(setpriv --reuid=postgres --regid=postgres --init-groups)
    fi
    cd "$database" # its owner may not be allowed to enter the caller's folder
    # initdb does not sync, because the data is new. The server itself runs with fsync.
    "${in_database[@]}" "$database_bin/initdb" -D "$database/data" -U licet -A trust -E UTF8 \
        --no-locale --no-sync </dev/null >"$database/database.log" 2>&1 || {
        tail -n 20 "$database/database.log" >&2
        die "initdb could not create a database."
    }
    local settings=(-c listen_addresses=127.0.0.1 -c max_connections=200 -c fsync=on)
    # Settings for a server with a few GB of memory. Checkpoints are minutes apart.
    [[ $mode != bench ]] || settings+=(-c shared_buffers=2GB -c max_wal_size=8GB -c checkpoint_timeout=15min
        -c maintenance_work_mem=1GB)
    launch "${in_database[@]}" "$database_bin/postgres" -D "$database/data" -p "$database_port" \
        -k "$database" "${settings[@]}" >>"$database/database.log" 2>&1
    database_pid=$!
    cd "$root"
    export LICET_TEST_DATABASE_URL=postgres://licet@127.0.0.1:$database_port/postgres
}

await_database() {
    await PostgreSQL 60 "$database_pid" "$database/database.log" \
        "${in_database[@]}" "$database_bin/pg_isready" -h 127.0.0.1 -p "$database_port" -U licet -d postgres
}

# Asks the servers that run.sh started for their versions. The version of any other server stays
# empty.
ask_versions() {
    [[ ! $broker ]] || broker_version=$(
        broker_environment
        "${in_broker[@]}" "$broker_bin/rabbitmq-diagnostics" --quiet server_version </dev/null
    ) || die "RabbitMQ does not report its version."
    [[ ! $database ]] || database_version=$(
        cd "$database"
        "${in_database[@]}" "$database_bin/psql" -h 127.0.0.1 -p "$database_port" -U licet -d postgres -XAtc \
            "SELECT split_part(current_setting('server_version'), ' ', 1)" </dev/null
    ) || die "PostgreSQL does not report its version."
    [[ ! $broker_wanted || $broker_version == "$broker_wanted".* ]] ||
        die "$broker_root contains RabbitMQ $broker_version instead of $broker_wanted."
    [[ ! $database_wanted || $database_version == "$database_wanted".* ]] ||
        die "$database_root contains PostgreSQL $database_version instead of $database_wanted."
    note "RabbitMQ ${broker_version:-(unknown version)}, PostgreSQL ${database_version:-(unknown version)}."
}

