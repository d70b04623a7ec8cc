#!/usr/bin/env bash
# `selvedge install` and `selvedge uninstall` against a real kube-apiserver, which it starts for itself, with etcd and
# nothing else: what controllers would do it does by hand. Prints `PASS case` or `FAIL case` for each, then
# `N passed, N failed`.
#
# Needs in PATH: selvedge, kubectl, kube-apiserver, etcd, openssl.
set -uo pipefail

work=$(mktemp -d)
passed=0
failed=0
system=selvedge-system
ranges=(--cluster-pod-cidr 10.244.0.0/16 --service-cidr 10.96.0.0/12)
export KUBECONFIG=$work/kubeconfig

pass() { passed=$((passed + 1)); echo "PASS $1"; }
fail() { failed=$((failed + 1)); echo "FAIL $1: $2" | tr '\n' ' '; echo; }

# ends CASE CODE PART COMMAND...: the command ends with this exit code and says PART somewhere.
ends() {
  local name=$1 code=$2 part=$3 said status
  shift 3
  said=$("$@" 2>&1)
  status=$?
  if [ $status -ne "$code" ]; then
    fail "$name" "ended with $status, not $code: $said"
  elif [[ $said != *"$part"* ]]; then
    fail "$name" "does not say '$part': $said"
  else
    pass "$name"
  fi
}

# holds CASE COMMAND...
holds() {
  local name=$1 said
  shift
  if said=$("$@" 2>&1); then pass "$name"; else fail "$name" "does not hold: $said"; fi
}
not() { ! "$@"; }

# within SECONDS WHAT COMMAND...
within() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "install.sh: waited in vain for $what" >&2; return 1; }
    sleep 0.2
  done
}

finish() {
  local pid
  # It would wait for whoever watches.
  for pid in ${controller:-} ${api:-} ${etcd:-}; do kill -KILL "$pid" 2>/dev/null; done
  wait 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT

port() { # of nobody at this moment
  local number
  for number in $(shuf -i 20000-29999 -n 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$number") 2>/dev/null || { echo "$number"; return; }
  done
}

start() {
  local client peer secure
  client=$(port) peer=$(port) secure=$(port)
  openssl genrsa -out "$work/accounts.key" 2048 2>/dev/null || return
  echo 'secret,operator,operator,system:masters' >"$work/tokens"
  etcd --data-dir "$work/etcd" --unsafe-no-fsync --listen-client-urls "http://127.0.0.1:$client" \
    --advertise-client-urls "http://127.0.0.1:$client" --listen-peer-urls "http://127.0.0.1:$peer" \
    --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" \
    >"$work/etcd.log" 2>&1 &
  etcd=$!
  kube-apiserver --etcd-servers "http://127.0.0.1:$client" --bind-address 127.0.0.1 --secure-port "$secure" \
    --cert-dir "$work/certificates" --service-account-issuer https://install.test \
    --service-account-key-file "$work/accounts.key" --service-account-signing-key-file "$work/accounts.key" \
    --service-cluster-ip-range 10.96.0.0/12 --authorization-mode RBAC --token-auth-file "$work/tokens" \
    >"$work/api.log" 2>&1 &
  api=$!
  cat >"$KUBECONFIG" <<END
apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: "https://127.0.0.1:$secure", insecure-skip-tls-verify: true}}]
users: [{name: operator, user: {token: secret}}]
contexts: [{name: it, context: {cluster: it, user: operator}}]
current-context: it
END
  within 120 "the API server" kubectl get --raw /readyz || { tail -n 5 "$work/api.log" >&2; return 1; }
  within 60 "its namespaces" kubectl get namespace default kube-system &&
    within 60 "its ServiceCIDR" kubectl get servicecidr kubernetes
}

there() { kubectl "$@" >/dev/null 2>&1; }
versions() { # of every object that install makes
  selvedge install --render "${ranges[@]}" | kubectl get -f - -o jsonpath='{range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}'
}
all_are() { # RESULT COMMAND...: every object of the answer has this result
  local result=$1 said
  shift
  said=$("$@" --output json 2>/dev/null) || return
  ! grep '"result"' <<<"$said" | grep -v "\"$result\"" && grep -q "\"$result\"" <<<"$said"
}
same() { [ "$1" = "$2" ] || { diff <(echo "$1") <(echo "$2"); return 1; }; }
no_difference() {
  selvedge install --render "${ranges[@]}" | kubectl diff --server-side --field-manager=selvedge-install -f -
}

# What the controller of DaemonSets says once every pod is there.
available() { # NAME
  kubectl -n $system patch daemonset "$1" --subresource=status --type=merge -p "{\"status\":{
    \"observedGeneration\":$(kubectl -n $system get daemonset "$1" -o jsonpath='{.metadata.generation}'),
    \"desiredNumberScheduled\":1,\"currentNumberScheduled\":1,\"updatedNumberScheduled\":1,\"numberReady\":1,
    \"numberAvailable\":1,\"numberMisscheduled\":0}}"
}
cleans() { # WHAT: part of what the cleanup's container is
  kubectl -n $system get daemonset selvedge-uninstall -o jsonpath='{.spec.template.spec.initContainers[0]}' | grep -q -- "$1"
}

# What the controllers of DaemonSets and namespaces do, as far as it is asked for here.
controllers() {
  while sleep 0.3; do
    local set
    set=$(kubectl -n $system get daemonset selvedge-uninstall -o json 2>/dev/null)
    if [ -n "$set" ] && [[ $set != *held-until* ]]; then available selvedge-uninstall; fi
    if [ -n "$(kubectl get namespace $system -o jsonpath='{.metadata.deletionTimestamp}' 2>/dev/null)" ]; then
      kubectl -n $system delete daemonset --all
      kubectl replace --raw /api/v1/namespaces/$system/finalize -f - \
        <<<"{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"$system\"},\"spec\":{\"finalizers\":[]}}"
    fi
  done >/dev/null 2>&1
}

start || {
  echo "FAIL start: no API server, see above"
  echo "0 passed, 1 failed"
  exit 1
}
kubectl create -f - >/dev/null <<'END'
{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "install-a", "labels": {"kubernetes.io/os": "linux"},
  "annotations": {"selvedge.dev/public-key": "k", "example.com/theirs": "1"}},
  "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}}
END

# What to install.
ends "ranges that are given need no cluster to render" 0 "kind: DaemonSet" \
  selvedge install --render --kubeconfig "$work/none" "${ranges[@]}"
ends "a kubeconfig that is not there is a mistake" 2 "$work/none" selvedge install --kubeconfig "$work/none"
sed 's|server: "[^"]*"|server: "https://127.0.0.1:1"|' "$KUBECONFIG" >"$work/silent"
ends "an API server that does not answer is told as that" 4 "does not answer" selvedge install --kubeconfig "$work/silent"
ends "pod addresses that nobody tells are asked for" 2 "selvedge install --cluster-pod-cidr" selvedge install
ends "Service addresses are found" 0 "Service addresses 10.96.0.0/12: ServiceCIDR kubernetes" \
  selvedge install --dry-run --cluster-pod-cidr 10.244.0.0/16
kubectl -n kube-system create configmap kubeadm-config --from-literal=ClusterConfiguration="networking:
  podSubnet: 10.244.0.0/16" >/dev/null
ends "pod addresses are found where kubeadm left them" 0 "pod addresses 10.244.0.0/16: podSubnet of the ConfigMap" \
  selvedge install --dry-run
ends "a Node outside of the ranges speaks against it" 3 "Node install-a has the pod CIDR 10.244.0.0/24" \
  selvedge install --cluster-pod-cidr 10.1.0.0/16 --service-cidr 10.96.0.0/12

# Nothing is changed by a dry run.
ends "a dry run of everything, before the namespace is there" 0 "selvedge-system/selvedge-agent" \
  selvedge install --dry-run "${ranges[@]}"
for distribution in k3s kind managed; do
  ends "a dry run for $distribution" 0 "nothing was changed" selvedge install --dry-run "${ranges[@]}" \
    --distribution $distribution --image registry.example/selvedge:1 --api-server 192.0.2.10:6443
done
holds "it has made no namespace" not there get namespace $system
holds "it has made no policy" not there get validatingadmissionpolicy selvedge-nodes

# Another pod network.
kubectl create -f - >/dev/null <<'END'
{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "kube-flannel-ds", "namespace": "kube-system"},
  "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
  "spec": {"containers": [{"name": "x", "image": "localhost/none:0"}]}}}}
END
ends "beside another pod network nothing is installed" 3 "Flannel: DaemonSet kube-system/kube-flannel-ds" \
  selvedge install "${ranges[@]}"
holds "and nothing was" not there get namespace $system
ends "but with --beside it is" 0 "going on all the same" selvedge install --beside --dry-run "${ranges[@]}"
kubectl -n kube-system delete daemonset kube-flannel-ds >/dev/null

# Installing.
holds "everything is created" all_are created selvedge install --no-wait "${ranges[@]}"
before=$(versions)
holds "the cluster has what is rendered" no_difference
holds "a second time nothing is changed" all_are unchanged selvedge install --no-wait "${ranges[@]}"
holds "nor written" same "$before" "$(versions)"

# Over an older installation.
printf '%s\n' 'clusterPodCIDRs = ["10.244.0.0/16"]' 'serviceCIDRs = ["10.96.0.0/12"]' 'listenPort = 51899' >"$work/config.toml"
ends "what a configuration would change is named" 3 "listenPort is 51830 and becomes 51899" \
  selvedge install --no-wait --config "$work/config.toml"
ends "which --force is not for" 3 "--reconfigure" selvedge install --no-wait --force --config "$work/config.toml"
ends "with --reconfigure it is changed" 0 "changed" selvedge install --no-wait --reconfigure --config "$work/config.toml" \
  --api-server 192.0.2.10:6443
holds "without options what was told stays" all_are unchanged selvedge install --no-wait
ends "what ranges would drop is named" 3 "give --api-server 192.0.2.10:6443" selvedge install --no-wait "${ranges[@]}"
ends "with --reconfigure it is dropped" 0 "changed" selvedge install --no-wait --reconfigure "${ranges[@]}"
ends "what does not get ready is told" 3 "not all is ready in time" selvedge install --timeout 1s "${ranges[@]}"
kubectl -n $system set image daemonset/selvedge-agent agent=localhost/other:1 >/dev/null
before=$(versions)
ends "what somebody else has set is a conflict" 3 'conflict with "kubectl-set"' selvedge install --no-wait "${ranges[@]}" \
  --image localhost/selvedge:9
holds "and nothing is changed" same "$before" "$(versions)"
ends "unless it is taken over" 0 "changed" selvedge install --no-wait --force-conflicts "${ranges[@]}"
holds "the image is back" test "$(kubectl -n $system get daemonset selvedge-agent \
  -o jsonpath='{.spec.template.spec.containers[0].image}')" != localhost/other:1

# Once all is ready.
available selvedge-tunnel >/dev/null
available selvedge-agent >/dev/null
kubectl patch node install-a --subresource=status --type=merge \
  -p '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}' >/dev/null
kubectl -n $system create configmap selvedge-config-5m7kf9hhg2 >/dev/null
ends "ConfigMaps that nothing uses go" 0 "removed ConfigMap selvedge-api-server-" selvedge install --timeout 30s
holds "one configuration is left, and what others made" test "$(kubectl -n $system get configmap -o name |
  grep -c '/selvedge-config-')" -eq 2

# A release in another namespace.
kubectl create namespace networking >/dev/null
kubectl create -f - >/dev/null <<'END'
{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "selvedge-agent", "namespace": "networking",
  "labels": {"app.kubernetes.io/name": "selvedge"}}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
  "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x", "image": "localhost/none:0"}]}}}}
END
ends "a release in another namespace is not taken apart" 3 "DaemonSet networking/selvedge-agent" selvedge uninstall --yes
holds "nor is anything else" there -n $system get daemonset selvedge-agent
ends "nor joined by a second one" 3 "helm uninstall" selvedge install --force --no-wait
kubectl -n networking delete daemonset selvedge-agent >/dev/null

# Uninstalling.
policed() { ! kubectl annotate node install-a selvedge.dev/probe=$RANDOM; }
within 30 "the policy to be enforced" policed
kubectl annotate node install-a selvedge.dev/probe- >/dev/null 2>&1
before=$(versions)
ends "uninstall says what it would do" 3 "would remove 1 annotations selvedge.dev/* of Node install-a" selvedge uninstall
holds "and does nothing" same "$before" "$(versions)"
ends "a node that is not cleaned in time stops it" 1 "Run it again" selvedge uninstall --yes --timeout 1s
holds "the agents are gone by then" not there -n $system get daemonset selvedge-agent
holds "the policy is not" there get validatingadmissionpolicy selvedge-nodes
holds "the cleanup has the agent's image" test "$(kubectl -n $system get daemonset selvedge-uninstall \
  -o jsonpath='{.spec.template.spec.initContainers[0].image}')" = "$(selvedge install --render "${ranges[@]}" |
  sed -n 's/.*image: "\{0,1\}\(localhost[^"]*\)"\{0,1\}$/\1/p' | head -n 1)"
ends "nobody can install meanwhile" 3 "is being uninstalled" selvedge install --force "${ranges[@]}"
ends "run again with another image and --purge, it still waits" 1 "Run it again" \
  selvedge uninstall --yes --timeout 1s --image localhost/selvedge:other --purge
holds "the cleanup has that image" cleans localhost/selvedge:other
holds "and purges" cleans --purge
controllers &
controller=$!
ends "run again, it goes on to the end" 0 "nothing of Selvedge is left" selvedge uninstall --yes --purge --timeout 60s
for what in "namespace $system" "validatingadmissionpolicy selvedge-nodes" "validatingadmissionpolicybinding selvedge-nodes" \
  "validatingadmissionpolicy selvedge-events" "validatingadmissionpolicybinding selvedge-events" \
  "clusterrole selvedge-agent" "clusterrolebinding selvedge-agent" "role selvedge-agent-events" \
  "rolebinding selvedge-agent-events"; do
  # shellcheck disable=SC2086
  holds "no $what is left" not there get $what
done
holds "only others' annotations are left" test "$(kubectl get node install-a -o jsonpath='{.metadata.annotations}')" = \
  '{"example.com/theirs":"1"}'
kubectl annotate node install-a selvedge.dev/public-key=k >/dev/null
ends "nodes that nothing can clean are told" 3 "selvedge uninstall --node --yes" selvedge uninstall --yes
ends "with nothing left there is nothing to do" 0 "nothing of Selvedge is left" selvedge uninstall

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
