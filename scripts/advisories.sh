#!/usr/bin/env bash
# Looks for known holes in the dependencies. The list comes from GitHub: where that cannot be
# reached, this says so and passes; what the list finds, fails.
set -uo pipefail

report=$(mktemp)
trap 'rm -f "$report"' EXIT
timeout 180 cargo deny --locked check --hide-inclusion-graph advisories >"$report" 2>&1 </dev/null
code=$?
if [ "$code" -eq 0 ]; then
    echo "advisories: none of the dependencies has a known hole"
elif [ "$code" -eq 124 ] || grep -qi 'failed to fetch advisory database\|failed to load advisory database' "$report"; then
    tail -n 5 "$report"
    echo "advisories: NOT CHECKED, the advisory database cannot be reached from here"
else
    cat "$report"
    exit "$code"
fi
