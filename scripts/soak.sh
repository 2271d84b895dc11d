#!/usr/bin/env bash
# Load and reloads for a long time. Fails on any answer that is not 2xx or 3xx, on socket errors,
# and on memory or file descriptors that grow. Usage: scripts/soak.sh MOONGATE MINUTES
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/backends.sh

moongate=$1
minutes=$2
round_seconds=20
folder=$(mktemp -d)
gateway=

finish() {
    if [ -n "$gateway" ]; then
        kill -TERM "$gateway" 2>/dev/null || true
        wait "$gateway" 2>/dev/null || true
    fi
    stop_backends
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM

cat >"$folder/gateway.yaml" <<'YAML'
listeners:
  public:
    - { address: "127.0.0.1:0" }
  admin: { address: "127.0.0.1:0" }
YAML

# The routes alternate between two versions, so that every reload changes something.
routes() {
    cat >"$folder/routes.new" <<YAML
version: 1
upstreams:
  demo:
    discovery: { static: ["127.0.0.1:9101", "127.0.0.1:9102"] }
routes:
  - name: demo-$1
    match: { path: "/{*rest}" }
    upstream: demo
YAML
    mv "$folder/routes.new" "$folder/routes.yaml"
}

# Usage: address LISTENER
address() {
    local turn found
    for turn in $(seq 200); do
        found=$(sed -n "s/.*\"event\":\"listening\".*\"listener\":\"$1\".*\"address\":\"\([^\"]*\)\".*/\1/p" "$folder/log" | head -n 1)
        if [ -n "$found" ]; then
            echo "$found"
            return
        fi
        sleep 0.1
    done
    echo "soak: the gateway does not listen" >&2
    tail -n 20 "$folder/log" >&2
    return 1
}

memory_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$gateway/status"; }
descriptors() { ls "/proc/$gateway/fd" | wc -l; }

start_backends "$moongate"
routes 0
"$moongate" run --config "$folder/gateway.yaml" --routes "$folder/routes.yaml" >>"$folder/log" &
gateway=$!
public=$(address public)
admin=$(address admin)

# Usage: load PATH CONNECTIONS
load() {
    wrk -t1 "-c$2" "-d$((round_seconds / 2))" "http://$public$1" >"$folder/wrk"
    if grep -E 'Non-2xx|Socket errors' "$folder/wrk"; then
        tail -n 20 "$folder/log"
        exit 1
    fi
}

end=$((SECONDS + minutes * 60))
round=0
first_memory=0
while [ "$SECONDS" -lt "$end" ] || [ "$round" -lt 4 ]; do
    round=$((round + 1))
    (sleep 3 && routes "$round" && curl -fsS -o /dev/null -X POST "http://$admin/admin/reload") &
    reload=$!
    load /echo 64
    wait "$reload"
    load /bytes/100000 16
    # Connections of the round are closed by now, but not all of them are noticed.
    sleep 1
    memory=$(memory_kib)
    open=$(descriptors)
    echo "round $round: $(awk '/Requests\/sec/ { print $2 }' "$folder/wrk") req/s, $((memory / 1024)) MiB, $open descriptors"
    # The log grows on disk, not in the process; emptied, it cannot fill the disk.
    : >"$folder/log"
    if [ "$round" -eq 3 ]; then
        first_memory=$memory
        first_open=$open
    fi
done

if [ "$memory" -gt $((first_memory * 12 / 10 + 8192)) ] || [ "$open" -gt $((first_open + 32)) ]; then
    echo "soak: it grows: $first_memory to $memory KiB, $first_open to $open descriptors"
    exit 1
fi
echo "soak: $round rounds without an error, $first_memory to $memory KiB, $first_open to $open descriptors"
