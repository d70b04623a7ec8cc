#!/usr/bin/env bash
# Runs every test of the workspace and ends with one line: N passed, N failed.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ -x tests/setup.sh ]; then
  tests/setup.sh || { echo "setting up the tests failed, see above"; exit 1; }
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

sum() { grep -E '^test result: ' "$log" | grep -oE "[0-9]+ $1" | awk '{ n += $1 } END { print n + 0 }'; }
passed=$(sum passed)
failed=$(sum failed)
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
  failed=1 # it did not build, or a test program died
fi
grep -E '^test .* FAILED$' "$log"
echo "$passed passed, $failed failed"
[ "$status" -eq 0 ] && [ "$passed" -gt 0 ]
