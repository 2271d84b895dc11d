# Sourced: starts and stops the two demo back ends that routes.yaml names. Sets no traps.

backends=()

# Usage: start_backends MOONGATE
start_backends() {
    local at number=0 name
    for name in one two; do
        at="127.0.0.1:$((9101 + number))"
        "$1" demo-backend --listen "$at" --name "$name" &
        backends+=($!)
        number=$((number + 1))
        wait_for "http://$at/health" $!
        echo "back end $name on $at; to stop it: kill ${backends[number - 1]}"
    done
}

stop_backends() {
    local pid
    for pid in "${backends[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in "${backends[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
    backends=()
}

# Waits until the address answers, as long as the process lives. Usage: wait_for URL PID
wait_for() {
    local turn
    for turn in $(seq 200); do
        if ! kill -0 "$2" 2>/dev/null; then
            echo "$1: the process has ended" >&2
            return 1
        fi
        # A foreign process on the port may answer too: the next turn sees that ours has ended.
        if curl -fsS -o /dev/null --max-time 2 "$1" 2>/dev/null && kill -0 "$2" 2>/dev/null; then
            return 0
        fi
        sleep 0.1
    done
    echo "$1 does not answer" >&2
    return 1
}
