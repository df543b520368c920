# Keeps a private RabbitMQ, and ends it when its owner is gone. Knows nothing of ports and settings:
# those are in the environment it is given and in the directory it is started in.
#
#   sh watchdog.sh SERVER [epmd]
#
# With `epmd` it keeps one of those, too; nodes that join another use that one's.
#
# Runs in a process group of its own, so that Ctrl-C reaches the owner alone. The working directory
# is the broker's and is removed at the end. Standard input is a pipe whose other end only the owner
# holds: a line `start` starts the server; its end means that the owner is gone, however it went,
# because the kernel closes the pipe for a process killed with kill -9, too.
#
# Files for the owner: `pid` exists while a server runs, `ended` (its exit status) once it has ended.

server=$1
directory=$PWD

# A signal to the whole group interrupts the `read` below, so that is the end as well. Handlers, not
# '': a signal ignored here would be ignored by the server, too.
trap : HUP INT TERM

# Not as a daemon, so that it is ours to end; ERL_AFLAGS tells all others not to start one.
epmd=
if [ "${2:-}" = epmd ]; then
    epmd </dev/null &
    epmd=$!
fi

while read -r order; do
    [ "$order" = start ] || continue
    rm -f pid ended
    (
        trap : HUP INT TERM
        # $$ stays the same through exec, and the server's script execs in its turn: it is beam's.
        sh -c 'echo $$ >pid.new && mv pid.new pid && exec "$1"' sh "$server" </dev/null
        status=$?
        rm -f pid
        echo "$status" >ended.new
        mv ended.new ended
    ) &
    # Only now the end may come: there is something to read whom to kill from.
    until [ -e pid ] || [ -e ended ]; do sleep 0.01; done
done

trap '' HUP INT TERM

# ends_within TENTHS: waits for the server's end
ends_within() {
    left=$1
    while [ -e pid ] && kill -0 "$pid"; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 0.1
    done
}

if pid=$(cat pid 2>/dev/null); then
    # Orderly first, so that clients get a connection.close. CONT, because a frozen one sees no TERM.
    kill -TERM "$pid"
    kill -CONT "$pid"
    # It takes one second when idle; five is patience, and nothing is lost by the kill.
    ends_within 50 || { kill -KILL "$pid"; ends_within 50; }
fi
[ -z "$epmd" ] || kill "$epmd"

# Small children of the server may write for another moment, which makes rm fail.
tries=50
until rm -rf "$directory" || [ "$tries" -eq 0 ]; do
    tries=$((tries - 1))
    sleep 0.1
done
