#!/usr/bin/env bash
# Runs every test of the workspace, the checks of the manifests, and those on a real Kubernetes, and ends with one line:
# N passed, N failed. With --fast, without the real Kubernetes.
set -uo pipefail
cd "$(dirname "$0")/.."

fast=
case ${1:-} in
--fast) fast=yes ;;
'') ;;
*) echo "usage: tests/run.sh [--fast]" >&2 && exit 2 ;;
esac

tests/setup.sh || { echo "setting up the tests failed, see above"; exit 1; }

SECONDS=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 parts=

# count NAME STATUS PASSED FAILED: what ended badly without a failure to show for it counts as one. Its time is that since
# the part before.
count() {
  local lost=$4
  if [ "$2" -ne 0 ] && [ "$lost" -eq 0 ]; then
    echo "FAIL  $1 broke off"
    lost=1
  fi
  passed=$((passed + $3)) failed=$((failed + lost))
  parts+="  $1: $3 passed, $lost failed, $((SECONDS / 60)) min $((SECONDS % 60)) s"$'\n'
  SECONDS=0
}

rust() {
  local log=$work/rust status sum
  cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  sum() { grep -E '^test result: ' "$log" | grep -oE "[0-9]+ $1" | awk '{ n += $1 } END { print n + 0 }'; }
  count "cargo test" "$status" "$(sum passed)" "$(sum failed)"
}

# checks NAME COMMAND...: a program that prints a line `PASS case` or `FAIL case` for each. Its own sum is indented, so
# that there is one at the end alone.
checks() {
  local name=$1 log=$work/$1 status
  shift
  "$@" 2>&1 | sed -u 's/^[0-9]* passed, [0-9]* failed/  &/' | tee "$log"
  status=${PIPESTATUS[0]}
  count "$name" "$status" "$(grep -c '^PASS ' "$log")" "$(grep -c '^FAIL ' "$log")"
}

# promises LOG: every test that SECURITY.md names is among those that ran; a name that matches none would pass unnoticed.
promises() {
  local name
  for name in $(tr '\n' ' ' <SECURITY.md | grep -oE -- '(--(lib|test [a-z]+) +[a-z_0-9:]+|`[a-z0-9]+_[a-z_0-9]{8,})`' |
    sed -E 's/.* //; s/`//g' | sort -u); do
    if grep -qE "^test [^ ]*$name" "$1"; then
      echo "PASS SECURITY.md names $name"
    else
      echo "FAIL SECURITY.md names $name: no such test ran"
    fi
  done
}

# kubernetes OPTION...: the lab's checks on a real Kubernetes.
kubernetes() {
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "FAIL  a real Kubernetes needs root: run as root, or make test-fast"; return 1; }
    root=(sudo -E)
  fi
  cargo build --package selvedge --package selvedge-lab && "${root[@]}" target/debug/selvedge-lab run --kubernetes --quick "$@"
}

rust
checks promises promises "$work/rust"
if [ -z "$fast" ]; then
  # On the last node kube-proxy serves Services, until it is ended and started again.
  checks kubernetes kubernetes --nodes 3 --kube-proxy --kube-proxy-nodes 1
  # The other layout and the other datapath in one run, which begins with an upgrade: to the same version, as there is no
  # other one here, but with all that an upgrade does.
  program=target/$(rustc -vV | sed -n 's/^host: //p')/release/selvedge
  checks outside kubernetes --nodes 2 --outside --datapath routed --churn 1x0 --upgrade-from "$program"
fi
checks manifests deploy/check.sh target/debug # with the programs that the others have built

grep -hE '^test .* FAILED$|^FAIL ' "$work"/*
printf '%s' "$parts"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
