#!/usr/bin/env bash
# Runs every test of the workspace, and the checks on a real Kubernetes, and ends with one line: N passed, N failed.
# With --fast, without the real Kubernetes.
set -uo pipefail
cd "$(dirname "$0")/.."

fast=
case ${1:-} in
--fast) fast=yes ;;
'') ;;
*) echo "usage: tests/run.sh [--fast]" >&2 && exit 2 ;;
esac

tests/setup.sh || { echo "setting up the tests failed, see above"; exit 1; }

log=$(mktemp) checks=$(mktemp)
trap 'rm -f "$log" "$checks"' EXIT
cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

sum() { grep -E '^test result: ' "$log" | grep -oE "[0-9]+ $1" | awk '{ n += $1 } END { print n + 0 }'; }
passed=$(sum passed)
failed=$(sum failed)
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
  failed=1 # it did not build, or a test program died
fi

# Checks of the lab print a line each, PASS or FAIL, and their sum.
kubernetes() {
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "FAIL  a real Kubernetes needs root: run as root, or make test-fast"; return 1; }
    root=(sudo -E)
  fi
  cargo build --package selvedge-lab && "${root[@]}" target/debug/selvedge-lab run --kubernetes --nodes 2 --quick
}
if [ -z "$fast" ]; then
  echo "on a real Kubernetes:"
  kubernetes 2>&1 | tee "$checks"
  real=${PIPESTATUS[0]}
  passed=$((passed + $(grep -c '^PASS ' "$checks")))
  lost=$(grep -c '^FAIL ' "$checks")
  if [ "$real" -ne 0 ] && [ "$lost" -eq 0 ]; then
    lost=1 # it did not come up
  fi
  failed=$((failed + lost))
  status=$((status + real))
fi

grep -hE '^test .* FAILED$|^FAIL ' "$log" "$checks"
echo "$passed passed, $failed failed"
[ "$status" -eq 0 ] && [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
