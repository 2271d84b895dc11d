#!/usr/bin/env bash
# The gateway in the foreground, with two demo back ends for as long as it lives.
# Usage: scripts/run.sh MOONGATE
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/backends.sh

moongate=$1
gateway=
signalled=

# A process group each: Ctrl-C then reaches this script alone, the gateway gets one signal and
# drains, and only then the back ends go.
set -m
trap stop_backends EXIT
trap 'signalled=yes; [ -z "$gateway" ] || kill -TERM "$gateway" 2>/dev/null || true' INT TERM HUP

start_backends "$moongate"
[ -z "$signalled" ] || exit 130
"$moongate" run --config "${MOONGATE_CONFIG:-conf/gateway.yaml}" \
    --routes "${MOONGATE_ROUTES:-routes.yaml}" &
gateway=$!

# A signal ends `wait` too; the gateway's own code is the one of a `wait` that nothing disturbed.
code=0
while :; do
    signalled=
    code=0
    wait "$gateway" || code=$?
    [ -n "$signalled" ] || break
done
exit "$code"
