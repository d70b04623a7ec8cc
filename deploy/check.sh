#!/usr/bin/env bash
# Looks at deploy/ without a cluster: every overlay renders, every config.toml is one that `selvedge` takes, the names in
# the admission policy are those of the accounts, and the Helm chart and `selvedge install` render what Kustomize does.
# Then `selvedge install` and `uninstall` are tried against a kube-apiserver.
#   deploy/check.sh [FOLDER]
# `kubectl`, `helm`, `selvedge`, `kube-apiserver` and `etcd` are looked for in FOLDER, then where tests/setup.sh puts what tests need, then in PATH.
# What cannot be looked at without one of them is skipped, and said so.
set -uo pipefail
folder=${1:+$(cd "$1" && pwd)}
cd "$(dirname "$0")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/selvedge
for place in "$cache"/kubernetes-*/bin "$cache/bin" "$folder"; do
  [ ! -d "$place" ] || PATH=$place:$PATH
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

check() { # NAME COMMAND...
  local name=$1 said
  shift
  if said=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "PASS $name"
  else
    failed=$((failed + 1))
    echo "FAIL $name"
    head -n 40 <<<"$said" | sed 's/^/  /'
  fi
}

render() { kubectl kustomize "$1" >"$work/$2.yaml"; }

# One object a line, as JSON with sorted keys. What differs by nature is taken out: the chart makes no namespace, and has
# its own ways to name config.toml and to start agents anew when it changes.
objects() { # FILE
  kubectl label --local -f "$1" selvedge.dev/checked=yes -o jsonpath='{@}{"\n"}' |
    grep -vE '"kind":"(Namespace|ConfigMap)"' |
    sed -E 's/"annotations":\{"checksum\/config":"[0-9a-f]+"\},?//; s/"selvedge-config-[0-9a-z]+"/"selvedge-config"/' |
    sort
}

same_objects() { # FILE FILE
  objects "$1" >"$work/one" && objects "$2" >"$work/other" && [ -s "$work/one" ] && diff "$work/one" "$work/other"
}

accounts() {
  local name
  for name in $(grep -oE 'system:serviceaccount:[a-z:-]+' base/admission.yaml | sort -u); do
    [ "$name" = system:serviceaccount:selvedge-system:selvedge-agent ] || return
  done
  grep -q 'serviceAccountName: selvedge-agent' base/agent.yaml
}

# Plain capabilities, and no more: nobody widens them unseen.
confined() {
  ! grep -nE 'privileged: true|hostPID|hostIPC|SYS_ADMIN|allowPrivilegeEscalation: true|automountServiceAccountToken: true' \
    base/*.yaml && [ "$(grep -c -- '- NET_ADMIN$' base/agent.yaml base/tunnel.yaml | grep -c ':1$')" -eq 2 ] &&
    [ "$(cat base/agent.yaml base/tunnel.yaml | grep -c 'drop: \[ALL\]')" -eq 3 ]
}

if command -v kubectl >/dev/null; then
  for overlay in overlays/*/; do
    name=$(basename "$overlay")
    check "$name renders" render "$overlay" "$name"
  done
else
  echo "SKIP overlays and chart: no kubectl"
fi
if command -v selvedge >/dev/null; then
  for file in base/config.toml overlays/*/config.toml; do
    check "$file is valid" selvedge config check "$file"
  done
else
  echo "SKIP configurations: no selvedge"
fi
check "the policy names the agent's account" accounts
check "pods are confined" confined

if command -v helm >/dev/null && command -v kubectl >/dev/null; then
  ranges=(--set-json 'clusterPodCIDRs=["10.244.0.0/16"]' --set-json 'serviceCIDRs=["10.96.0.0/12"]')
  chart() { # FILE OPTION...
    local to=$1
    shift
    helm template selvedge chart --namespace selvedge-system --kube-version 1.36.0 "${ranges[@]}" "$@" >"$work/$to"
  }
  refused() { ! chart refused.yaml "$@"; }
  configured() {
    awk '/config.toml: \|/ { on = 1; next } on && /^[^ ]/ { exit } on { sub("^    ", ""); print }' "$work/$1" >"$work/config.toml"
    grep -q clusterPodCIDRs "$work/config.toml" && { ! command -v selvedge >/dev/null || selvedge config check "$work/config.toml"; }
  }
  check "the chart renders" chart chart.yaml
  check "the chart's objects are those of the overlay kubeadm" same_objects "$work/kubeadm.yaml" "$work/chart.yaml"
  check "the chart's configuration" configured chart.yaml
  check "the chart renders for k3s" chart k3s-chart.yaml --set cni.binDir=/var/lib/rancher/k3s/data/cni \
    --set cni.confDir=/var/lib/rancher/k3s/agent/etc/cni/net.d
  check "the chart's objects are those of the overlay k3s" same_objects "$work/k3s.yaml" "$work/k3s-chart.yaml"
  check "the chart renders for a cloud" chart managed-chart.yaml --set image.repository=registry.example/selvedge \
    --set criticalPodsQuota=true
  check "the chart's objects are those of the overlay managed" same_objects "$work/managed.yaml" "$work/managed-chart.yaml"
  check "the chart renders with all values" chart all.yaml --set apiServer.host=192.0.2.10 --set 'image.pullSecrets={x}' \
    --set resources.agent.requests.cpu=1 --set-string 'extraConfig=listenPort = 51831'
  check "its configuration has the extra option" configured all.yaml
  ranges=()
  check "without ranges the chart is refused" refused
  ranges=(--set-json 'clusterPodCIDRs=["x"]' --set-json 'serviceCIDRs=["10.96.0.0/12"]')
  check "with a range that is none the chart is refused" refused
  ranges=(--set-json 'clusterPodCIDRs=["10.244.0.0/16"]' --set-json 'serviceCIDRs=["10.96.0.0/12"]')
  check "with an unknown value the chart is refused" refused --set nonsense=1
  for option in 'interface = "mesh0"' 'agent.metricsAddress = "[::]:1"' 'agent = { startupTaint = "a/b" }'; do
    check "with $option the chart is refused" refused --set-string "extraConfig=$option"
  done
else
  echo "SKIP the chart: no helm, or no kubectl"
fi

# With ConfigMaps and all: the names that Kustomize makes of their content too.
rendered() { # OVERLAY OPTION...
  local overlay=$1
  shift
  selvedge install --render "$@" >"$work/rendered.yaml" &&
    whole "$work/$overlay.yaml" >"$work/one" && whole "$work/rendered.yaml" >"$work/other" && [ -s "$work/one" ] &&
    diff "$work/one" "$work/other"
}
whole() { kubectl label --local -f "$1" selvedge.dev/checked=yes -o jsonpath='{@}{"\n"}' | sort; }
if command -v selvedge >/dev/null && command -v kubectl >/dev/null; then
  for name in kubeadm k3s kind; do
    check "selvedge install renders the overlay $name" rendered "$name" --distribution "$name" \
      --config "overlays/$name/config.toml"
  done
  check "selvedge install renders the overlay managed" rendered managed --distribution managed \
    --config overlays/managed/config.toml --image registry.example/selvedge:0.1.0
  check "selvedge install renders the overlay kube-proxy-free" rendered kube-proxy-free --distribution kubeadm \
    --config overlays/kubeadm/config.toml --api-server 192.0.2.10:6443
else
  echo "SKIP selvedge install: no selvedge, or no kubectl"
fi
if command -v selvedge >/dev/null && command -v kubectl >/dev/null && command -v kube-apiserver >/dev/null &&
  command -v etcd >/dev/null; then
  while read -r line; do
    case $line in
    PASS\ *) passed=$((passed + 1)) ;;
    FAIL\ *) failed=$((failed + 1)) ;;
    ENDED\ 0) continue ;;
    ENDED\ *)
      failed=$((failed + 1))
      line="FAIL install.sh ended with ${line#ENDED }"
      ;;
    *) line="  $line" ;;
    esac
    echo "$line"
  done < <(../tests/kubernetes/install.sh 2>&1; echo "ENDED $?")
else
  echo "SKIP selvedge install on a kube-apiserver: no such program, or no etcd"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
