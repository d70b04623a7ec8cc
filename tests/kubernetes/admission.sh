#!/usr/bin/env bash
# Who may write what on Nodes: the admission policy and the rights in deploy/, tried against a running kube-apiserver
# with real tokens and certificates. Prints `PASS case` or `FAIL case` for each, then `N passed, N failed`.
#
# Needs
#   a cluster (its kube-apiserver is enough) with an overlay of deploy/ applied and the authorization modes Node and RBAC
#   KUBECONFIG       of an administrator (group system:masters)
#   KUBECTL          the program, `kubectl` by default
#   CLIENT_CA_CERT   the certificate authority for clients (kube-apiserver's --client-ca-file), to make
#   CLIENT_CA_KEY    kubelets with, by openssl
#   curl             for patches, because kubectl reads before it patches, which not everybody here may
# It makes Nodes, Pods, Events, KeyRotations and KeyRevocations named admission-* and removes them.
set -uo pipefail

kubectl=${KUBECTL:-kubectl}
: "${KUBECONFIG:?}" "${CLIENT_CA_CERT:?}" "${CLIENT_CA_KEY:?}"
work=$(mktemp -d)
passed=0
failed=0
system=selvedge-system
a=admission-a
b=admission-b
c=admission-c # is made by its kubelet

pass() { passed=$((passed + 1)); echo "PASS $1"; }
fail() { failed=$((failed + 1)); echo "FAIL $1: $2" | tr '\n' ' '; echo; }

# allowed CASE COMMAND...
allowed() {
  local name=$1 said
  shift
  if said=$("$@" 2>&1); then pass "$name"; else fail "$name" "refused: $said"; fi
}

# denied CASE PART COMMAND...: refused with an error that has PART in it, so that it is refused for the right reason.
denied() {
  local name=$1 part=$2 said
  shift 2
  if said=$("$@" 2>&1); then
    fail "$name" "was not refused"
  elif [[ $said == *"$part"* ]]; then
    pass "$name"
  else
    fail "$name" "refused otherwise: $said"
  fi
}

# within SECONDS WHAT COMMAND...
within() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "admission.sh: waited in vain for $what" >&2
      return 1
    fi
    sleep 0.2
  done
}

# Who asks. The administrator's certificate would win over a token, so the others have a kubeconfig without it.
operator() { "$kubectl" "$@"; }
unbound() { bare --token="$(<"$work/unbound.token")" "$@"; }
bare() { "$kubectl" --kubeconfig="$work/bare" "$@"; }
agent_a() { bare --token="$(<"$work/agent_a.token")" "$@"; }
agent_b() { bare --token="$(<"$work/agent_b.token")" "$@"; }
tunnel() { bare --token="$(<"$work/tunnel.token")" "$@"; }
nobody() { bare --token="$(<"$work/nobody.token")" "$@"; }
kubelet_c() { bare --client-certificate="$work/kubelet_c.crt" --client-key="$work/kubelet_c.key" "$@"; }

# patch WHO NODE TYPE PATCH
patch() { patch_at "$1" "api/v1/nodes/$2" "$3" "$4"; }
# patch_at WHO PATH TYPE PATCH
patch_at() {
  local who=$1 credentials=()
  if [ -s "$work/$who.token" ]; then
    credentials=(-H "Authorization: Bearer $(<"$work/$who.token")")
  elif [ "$who" = controller ]; then
    credentials=(--cert "$work/operator.crt" --key "$work/operator.key"
      -H "Impersonate-User: system:serviceaccount:kube-system:node-controller")
  elif [ "$who" = impostor ]; then
    credentials=(--cert "$work/operator.crt" --key "$work/operator.key" -H "Impersonate-User: impostor"
      -H "Impersonate-Group: system:masters")
  else
    credentials=(--cert "$work/$who.crt" --key "$work/$who.key")
  fi
  curl --silent --show-error --fail-with-body --max-time 30 --cacert "$work/ca" "${credentials[@]}" --request PATCH \
    --header "Content-Type: application/$3+json" --data-binary "$4" "$server/$2"
}
merge() { # WHO NODE PATCH
  patch "$1" "$2" merge-patch "$3"
}
status() { # WHO NODE PATCH, where conditions are merged by their type
  patch "$1" "$2/status" strategic-merge-patch "$3"
}
# taint WHO NODE EDIT: makes the taints what sed makes of them. There are others than ours: each API server adds some.
taint() {
  merge "$1" "$2" "{\"spec\":{\"taints\":$(operator get node "$2" -o jsonpath='{.spec.taints}' | sed "$3")}}"
}
off() { # KEY: the edit that takes a taint away
  echo "s|{[^}]*\"key\":\"$1\"[^}]*}||; s|,,|,|; s|\\[,|[|; s|,\\]|]|"
}
annotate() { # WHO NODE NAME VALUE, where VALUE is JSON
  merge "$1" "$2" "{\"metadata\":{\"annotations\":{\"$3\":$4}}}"
}
create() { # WHO NODE REST, where REST is JSON
  "$1" create -f - <<<"{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"$2\"${3:-}}"
}

clean() {
  local node
  # A finalizer is there only if the policy let one through.
  for node in $a $b $c; do operator patch node $node --type=merge -p '{"metadata":{"finalizers":null}}'; done
  operator -n $system delete pod admission-a admission-b admission-nobody --ignore-not-found --force --grace-period=0
  operator -n $system delete serviceaccount admission-nobody --ignore-not-found
  operator delete node $a $b $c admission-d --ignore-not-found
  for namespace in default kube-system; do
    operator -n $namespace delete events.v1.events.k8s.io --ignore-not-found \
      admission-{node.1,service.1,x.1,x.2,x.3,x.4,x.5,x.6,x.7,x.8,x.9,x.10}
  done
  operator delete keyrotation $a --ignore-not-found
  operator delete keyrevocation admission-1 --ignore-not-found
  operator delete clusterrolebinding,clusterrole admission-more admission-write admission-rotates --ignore-not-found
} >/dev/null 2>&1
finish() {
  clean
  rm -rf "$work"
}
trap finish EXIT

certificate() { # FILE NODE
  openssl req -new -newkey rsa:2048 -nodes -keyout "$work/$1.key" -subj "/O=system:nodes/CN=system:node:$2" \
    -out "$work/$1.csr" 2>/dev/null &&
    openssl x509 -req -in "$work/$1.csr" -CA "$CLIENT_CA_CERT" -CAkey "$CLIENT_CA_KEY" -CAserial "$work/serial" \
      -CAcreateserial -days 1 -out "$work/$1.crt" 2>/dev/null
}

# token WHO ACCOUNT [POD]: bound to the pod, and so to its node.
token() {
  local bound=()
  if [ $# -eq 3 ]; then
    bound=(--bound-object-kind=Pod "--bound-object-name=$3"
      "--bound-object-uid=$(operator -n $system get pod "$3" -o jsonpath='{.metadata.uid}')")
  fi
  operator -n $system create token "$2" "${bound[@]}" >"$work/$1.token"
}

pod() { # NAME NODE [ACCOUNT]: as the DaemonSet makes them, but for the image, which is never started.
  operator -n $system create -f - <<EOF
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "$1"}, "spec": {
  "serviceAccountName": "${3:-selvedge-agent}", "nodeName": "$2", "hostNetwork": true,
  "tolerations": [{"operator": "Exists"}],
  "containers": [{"name": "agent", "image": "localhost/none:0"}]}}
EOF
}

pod_cidrs() { operator get node "$1" -o jsonpath='{.spec.podCIDRs[*]}'; }
has_pod_cidrs() { [ -n "$(pod_cidrs "$1")" ]; }

# tainted NODE CIDR CIDR: a Node with taints, and a pod of the agent on it. A controller manager gives it pod CIDRs by
# itself; without one it has these.
tainted() {
  create operator "$1" ',"labels":{"site":"x"},"annotations":{"example.com/theirs":"1"}},"spec":{"taints":[
    {"key":"selvedge.dev/not-ready","effect":"NoSchedule"},{"key":"example.com/kept","effect":"NoSchedule"}]}' || return
  within 5 "a controller that gives out pod CIDRs" has_pod_cidrs "$1" 2>/dev/null ||
    merge operator "$1" "{\"spec\":{\"podCIDR\":\"$2\",\"podCIDRs\":[\"$2\",\"$3\"]}}" || return
  pod "$1" "$1"
}

configured() { # FIELD of the administrator's kubeconfig, with files read in
  operator config view --minify --raw --flatten -o jsonpath="{$1}"
}

prepare() {
  clean
  server=$(configured .clusters[0].cluster.server) &&
    configured .clusters[0].cluster.certificate-authority-data | base64 -d >"$work/ca" &&
    configured .users[0].user.client-certificate-data | base64 -d >"$work/operator.crt" &&
    configured .users[0].user.client-key-data | base64 -d >"$work/operator.key" || return
  bare config set-cluster it --server="$server" --certificate-authority="$work/ca" >/dev/null &&
    bare config set-context it --cluster=it >/dev/null && bare config use-context it >/dev/null || return
  certificate kubelet_a $a && certificate kubelet_c $c || return
  tainted $a 10.244.250.0/24 fd00:10:244:fa::/64 && tainted $b 10.244.251.0/24 fd00:10:244:fb::/64 || return
  operator -n $system create serviceaccount admission-nobody || return
  token agent_a selvedge-agent $a && token agent_b selvedge-agent $b && token unbound selvedge-agent &&
    token tunnel selvedge-tunnel && token nobody admission-nobody || return
  # The policy works from some moment after it was written.
  in_force() { ! annotate operator $a selvedge.dev/probe "\"$RANDOM\""; }
  within 30 "the policy to be enforced" in_force
}

prepare >"$work/log" || {
  cat "$work/log"
  echo "FAIL prepare: see above"
  echo "0 passed, 1 failed"
  exit 1
}
annotate operator $a selvedge.dev/probe null >/dev/null 2>&1
read -r -a cidrs <<<"$(pod_cidrs $a)"
forward=$(IFS=,; echo "${cidrs[*]}")
backward=$forward
[ ${#cidrs[@]} -ne 2 ] || backward=${cidrs[1]},${cidrs[0]}

only='may be written only by the agent on that node'
not_that_one='may change only the Node that it runs on'

# Annotations of Selvedge.
allowed "an agent publishes what is of its own Node" merge agent_a $a "{\"metadata\":{\"annotations\":{
  \"selvedge.dev/public-key\":\"k\",\"selvedge.dev/key-epoch\":\"3\",\"selvedge.dev/endpoints\":\"192.0.2.1:51830\",
  \"selvedge.dev/pod-cidrs\":\"$forward\"}}}"
allowed "an agent publishes by way of the status" status agent_a $a \
  '{"metadata":{"annotations":{"selvedge.dev/location":"x"}}}'
for who in agent_b unbound kubelet_a controller operator; do
  denied "$who adds an annotation to the Node of agent_a" "$only" annotate $who $a selvedge.dev/features '"lanes=4"'
  denied "$who changes the key of agent_a" "$only" annotate $who $a selvedge.dev/public-key '"mine"'
  denied "$who takes the key of agent_a away" "$only" annotate $who $a selvedge.dev/public-key null
  denied "$who changes the key of agent_a by way of the status" "$only" status $who $a \
    '{"metadata":{"annotations":{"selvedge.dev/public-key":"mine"}}}'
done
denied "a kubelet changes the key of another node" "is not allowed to modify node" annotate kubelet_c $a selvedge.dev/public-key '"mine"'
denied "an operator makes a Node with a key" "$only" create operator admission-d \
  ',"annotations":{"selvedge.dev/public-key":"k"}}'

# Pod CIDRs.
wrong='selvedge.dev/pod-cidrs has to be spec.podCIDRs'
for value in 10.250.0.0/24 "$forward,10.250.0.0/24" 0.0.0.0/0 "" x "$forward,"; do
  denied "an agent publishes the pod CIDRs '$value'" "$wrong" annotate agent_a $a selvedge.dev/pod-cidrs "\"$value\""
done
if [ "$backward" != "$forward" ]; then
  denied "an agent publishes half of its pod CIDRs" "$wrong" annotate agent_a $a selvedge.dev/pod-cidrs "\"${cidrs[0]}\""
  denied "an agent publishes one pod CIDR twice" "$wrong" annotate agent_a $a selvedge.dev/pod-cidrs \
    "\"${cidrs[0]},${cidrs[0]}\""
  denied "an agent publishes its pod CIDRs and one of them again" "$wrong" annotate agent_a $a selvedge.dev/pod-cidrs \
    "\"$forward,${cidrs[0]}\""
  allowed "an agent publishes its pod CIDRs in another order" annotate agent_a $a selvedge.dev/pod-cidrs "\"$backward\""
fi
allowed "an agent takes its pod CIDRs back" annotate agent_a $a selvedge.dev/pod-cidrs null
allowed "an agent publishes its pod CIDRs again" annotate agent_a $a selvedge.dev/pod-cidrs "\"$forward\""

# Epochs.
for value in '"2"' '"0"' '"03"' '"-4"' '"x"' '""' null; do
  denied "an agent's epoch goes from 3 to $value" "only grows" annotate agent_a $a selvedge.dev/key-epoch "$value"
done
# Beyond what agents read, beyond 64 bits, and so far that no write could follow.
for value in 65540 9007199254740991 9007199254740992 18446744073709551615 18446744073709551616; do
  denied "an agent's epoch goes from 3 to $value" "only grows" annotate agent_a $a selvedge.dev/key-epoch "\"$value\""
done
for value in 4503599627370497 9007199254740991 9007199254740992 18446744073709551615 18446744073709551616; do
  denied "an agent's epoch begins at $value" "only grows" annotate agent_b $b selvedge.dev/key-epoch "\"$value\""
done
allowed "an agent's epoch grows" annotate agent_a $a selvedge.dev/key-epoch '"10"'
allowed "an agent's epoch grows by as much as it may" annotate agent_a $a selvedge.dev/key-epoch '"65546"'
allowed "an agent's epoch begins as high as it may" annotate agent_b $b selvedge.dev/key-epoch \
  '"4503599627370496"'
allowed "the epoch after the highest that may be the first" annotate agent_b $b selvedge.dev/key-epoch '"4503599627370497"'

# All else of a Node is not the agent's.
metadata='may change no metadata of its Node but annotations selvedge.dev/*'
spec='may change nothing in the spec of its Node'
state='may change nothing in the status of its Node'
denied "an agent adds a label" "$metadata" merge agent_a $a '{"metadata":{"labels":{"x":"y"}}}'
denied "an agent changes a label" "$metadata" merge agent_a $a '{"metadata":{"labels":{"site":"y"}}}'
denied "an agent takes all labels away" "$metadata" merge agent_a $a '{"metadata":{"labels":null}}'
denied "an agent labels by way of the status" "$metadata" status agent_a $a '{"metadata":{"labels":{"x":"y"}}}'
denied "an agent adds an annotation of others" "$metadata" annotate agent_a $a example.com/new '"1"'
denied "an agent changes an annotation of others" "$metadata" annotate agent_a $a example.com/theirs '"2"'
denied "an agent takes an annotation of others away" "$metadata" annotate agent_a $a example.com/theirs null
denied "an agent writes an annotation whose name begins almost like ours" "$metadata" \
  annotate agent_a $a selvedge.dev.example.com/x '"1"'
denied "an agent adds a finalizer" "$metadata" merge agent_a $a '{"metadata":{"finalizers":["example.com/x"]}}'
denied "an agent gives its Node an owner" "$metadata" merge agent_a $a '{"metadata":{"ownerReferences":[
  {"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"x"}]}}'
denied "an agent cordons" "$spec" merge agent_a $a '{"spec":{"unschedulable":true}}'
denied "an agent sets the provider's ID" "$spec" merge agent_a $a '{"spec":{"providerID":"x://y"}}'
denied "an agent adds a taint" "$spec" taint agent_a $a 's/\]$/,{"key":"example.com\/new","effect":"NoExecute"}]/'
denied "an agent takes another taint off" "$spec" taint agent_a $a "$(off example.com/kept)"
denied "an agent takes all taints off" "$spec" taint agent_a $a 's/.*/null/'
denied "an agent changes a taint" "$spec" taint agent_a $a 's/\("effect":\)"NoSchedule",\("key":"selvedge\)/\1"NoExecute",\2/'
allowed "an agent takes the start-up taint off" taint agent_a $a "$(off selvedge.dev/not-ready)"
denied "an agent puts the start-up taint on" "$spec" taint agent_a $a \
  's/\]$/,{"key":"selvedge.dev\/not-ready","effect":"NoSchedule"}]/'
allowed "an agent clears the condition NetworkUnavailable" status agent_a $a '{"status":{"conditions":[
  {"type":"NetworkUnavailable","status":"False","reason":"SelvedgeIsUp"}]}}'
denied "an agent sets another condition" "$state" status agent_a $a '{"status":{"conditions":[
  {"type":"Ready","status":"True"}]}}'
denied "an agent sets its Node's addresses" "$state" status agent_a $a '{"status":{"addresses":[
  {"type":"InternalIP","address":"192.0.2.7"}]}}'
denied "an agent sets its Node's capacity" "$state" status agent_a $a '{"status":{"capacity":{"cpu":"1000"}}}'

# Nothing of other Nodes.
denied "an agent clears the condition of another Node" "$not_that_one" status agent_b $a '{"status":{"conditions":[
  {"type":"NetworkUnavailable","status":"True"}]}}'
denied "an agent takes the start-up taint off another Node" "$not_that_one" taint agent_a $b "$(off selvedge.dev/not-ready)"
denied "a token of the agent that is bound to no node clears a condition" "$not_that_one" status unbound $a \
  '{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True"}]}}'
denied "an agent makes a Node" "cannot create resource" create agent_a admission-d '}'
denied "an agent deletes its Node" "cannot delete resource" agent_a delete node $a
# Kubelets.
denied "a kubelet makes its Node with a key" "$only" create kubelet_c $c ',"annotations":{"selvedge.dev/public-key":"k"}}'
denied "a kubelet makes its Node with pod CIDRs" "may not set spec.podCIDRs" create kubelet_c $c \
  '},"spec":{"podCIDR":"10.244.9.0/24","podCIDRs":["10.244.9.0/24"]}'
allowed "a kubelet makes its Node" create kubelet_c $c ',"labels":{"kubernetes.io/os":"linux"},
  "annotations":{"volumes.kubernetes.io/controller-managed-attach-detach":"true"}},
  "spec":{"providerID":"x://c","taints":[{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]}'
if ! has_pod_cidrs $c; then
  denied "a kubelet gives its Node pod CIDRs" "may not set spec.podCIDRs" merge kubelet_c $c \
    '{"spec":{"podCIDR":"10.244.9.0/24","podCIDRs":["10.244.9.0/24"]}}'
fi
allowed "a kubelet reports its status" status kubelet_a $a '{"status":{"conditions":[{"type":"Ready","status":"True"}],
  "addresses":[{"type":"InternalIP","address":"192.0.2.1"}],"capacity":{"cpu":"2"}}}'
denied "an agent takes its Node's capacity away" "$state" status agent_a $a '{"status":{"capacity":null}}'
allowed "a kubelet labels and annotates its Node" merge kubelet_a $a '{"metadata":{
  "labels":{"kubernetes.io/arch":"amd64"},"annotations":{"node.alpha.kubernetes.io/ttl":"0"}}}'

# Controllers and operators.
if ! has_pod_cidrs $c; then
  allowed "a controller gives a Node pod CIDRs" merge controller $c \
    '{"spec":{"podCIDR":"10.244.252.0/24","podCIDRs":["10.244.252.0/24"]}}'
fi
allowed "a controller taints" taint controller $a 's/\]$/,{"key":"example.com\/new","effect":"NoExecute"}]/'
allowed "a controller sets a condition" status controller $a '{"status":{"conditions":[
  {"type":"Ready","status":"Unknown"}]}}'
allowed "an operator labels" operator label node $a site=z --overwrite
allowed "an operator annotates" operator annotate node $a example.com/theirs=2 --overwrite
allowed "an operator cordons" operator cordon $a
denied "an agent uncordons" "$spec" merge agent_a $a '{"spec":{"unschedulable":null}}'
allowed "an operator uncordons" operator uncordon $a
allowed "an operator makes a Node with pod CIDRs" create operator admission-d \
  '},"spec":{"podCIDR":"10.244.253.0/24","podCIDRs":["10.244.253.0/24"]}'
allowed "an operator deletes a Node" operator delete node admission-d

# Events.
event() { # WHO NAMESPACE NAME REPORTER NODE REST, where REST is JSON
  "$1" create -f - <<<"{\"apiVersion\":\"events.k8s.io/v1\",\"kind\":\"Event\",\"metadata\":{\"namespace\":\"$2\",
    \"name\":\"admission-$3\"${7:-}},\"eventTime\":\"$(date -u +%Y-%m-%dT%H:%M:%S.000000Z)\",\"action\":\"Test\",
    \"reason\":\"Test\",\"note\":\"n\",\"reportingController\":\"$4\",\"reportingInstance\":\"$5\",$6}"
}
about() { # KIND NAME [NAMESPACE]
  echo "\"type\":\"Warning\",\"regarding\":{\"apiVersion\":\"v1\",\"kind\":\"$1\",\"name\":\"$2\"${3:+,\"namespace\":\"$3\"}}"
}
as_whom='may write Events only as selvedge.dev/agent of the Node that it runs on'
about_what='may write Events only about Nodes'
how='may write Events only of type Warning'
us=selvedge.dev/agent
allowed "an agent writes an Event about a Node" event agent_a default node.1 $us $a "$(about Node $b)"
allowed "an agent writes an Event about a Service" event agent_a kube-system service.1 $us $a \
  "$(about Service dns kube-system)"
denied "two Events have one name" "already exists" event agent_b kube-system service.1 $us $b \
  "$(about Service dns kube-system)"
denied "an agent writes an Event as another node's" "$as_whom" event agent_a default x.1 $us $b "$(about Node $b)"
denied "a token of the agent that is bound to no node writes an Event" "$as_whom" event unbound default x.2 $us $a \
  "$(about Node $a)"
denied "an agent writes an Event as the kubelet" "$as_whom" event agent_a default x.3 kubelet $a "$(about Node $a)"
denied "an agent writes an Event about a Pod" "$about_what" event agent_a default x.4 $us $a "$(about Pod x default)"
denied "an agent writes an Event about a Node elsewhere" "$about_what" event agent_a kube-system x.5 $us $a \
  "$(about Node $a)"
denied "an agent writes an Event about a Service of another namespace" "namespace" event agent_a default x.6 $us $a \
  "$(about Service dns kube-system)"
denied "an agent writes an Event with a finalizer" "$how" event agent_a default x.7 $us $a "$(about Node $a)" \
  ',"finalizers":["example.com/x"]'
denied "an agent writes an Event with a label" "$how" event agent_a default x.8 $us $a "$(about Node $a)" ',"labels":{"x":"y"}'
normal=$(about Node $a)
denied "an agent writes a normal Event" "$how" event agent_a default x.9 $us $a "${normal/Warning/Normal}"
allowed "an operator writes any Event" event operator default x.10 example.com/x y "$(about Pod x default)"

# Key rotations.
rotation() { # WHO NODE SPEC, where SPEC is JSON
  "$1" create -f - <<<"{\"apiVersion\":\"selvedge.dev/v1alpha1\",\"kind\":\"KeyRotation\",\"metadata\":{
    \"name\":\"$2\"},\"spec\":{$3},\"status\":{\"operation\":\"r-1\",\"state\":\"Rotated\"}}"
}
ask() { # WHO NODE PATCH
  patch_at "$1" "apis/selvedge.dev/v1alpha1/keyrotations/$2" merge-patch "$3"
}
tell() { # WHO NODE PATCH
  patch_at "$1" "apis/selvedge.dev/v1alpha1/keyrotations/$2/status" merge-patch "{\"status\":$3}"
}
me=$(operator auth whoami -o jsonpath='{.status.userInfo.username}')
asks="\"operation\":\"r-1\",\"requestedBy\":\"$me\""
own_name='spec.requestedBy of KeyRotation'
answer='{"operation":"r-1","state":"Confirming","peers":2}'
denied "an agent asks for a rotation" "cannot create resource" rotation agent_a $a "$asks"
denied "somebody asks in another's name" "$own_name $a has to be $me" rotation operator $a \
  '"operation":"r-1","requestedBy":"somebody"'
denied "an operation of a strange name" "spec.operation" rotation operator $a "\"operation\":\"R 1\",\"requestedBy\":\"$me\""
denied "a deadline of a week" "deadlineSeconds" rotation operator $a "$asks,\"deadlineSeconds\":604800"
allowed "an operator asks for a rotation" rotation operator $a "$asks,\"hold\":true"
state_is() { [ "$(operator get keyrotation "$1" -o jsonpath='{.status.state}')" = "$2" ]; }
allowed "nobody answers in the agent's place as they ask" state_is $a ""
denied "somebody asks for another operation in an earlier one's name" "$own_name" ask impostor $a \
  '{"spec":{"operation":"r-2"}}'
allowed "another operator releases it" ask impostor $a '{"spec":{"hold":null}}'
denied "somebody aborts in another's name" "spec.abort.requestedBy" ask impostor $a \
  "{\"spec\":{\"abort\":{\"requestedBy\":\"$me\"}}}"
allowed "another operator aborts it" ask impostor $a '{"spec":{"abort":{"requestedBy":"impostor"}}}'
allowed "the agent of the node answers" tell agent_a $a "$answer"
allowed "the answer is there" state_is $a Confirming
whose="the status of KeyRotation $a may be written only by the agent on that node"
denied "the agent of another node answers" "$whose" tell agent_b $a "$answer"
denied "a token of the agent that is bound to no node answers" "$whose" tell unbound $a "$answer"
denied "an operator answers in the agent's place" "$whose" tell operator $a "$answer"
denied "an agent answers with a state that there is not" "status.state" tell agent_a $a '{"state":"Done"}'
denied "an agent releases a rotation" "cannot patch resource" ask agent_a $a '{"spec":{"hold":true}}'
denied "an agent deletes a rotation" "cannot delete resource" agent_a delete keyrotation $a
rotates() { "$@" auth can-i create keyrotations.selvedge.dev; }
denied "who has no role asks for rotations" no rotates operator --as=admission-nobody
operator create clusterrolebinding admission-rotates --clusterrole=selvedge-key-operator --user=admission-rotates >/dev/null
allowed "who has the role for it asks for rotations" within 10 "the right to rotate" rotates operator --as=admission-rotates

# Key revocations.
revocation() { # WHO NAME SPEC, where SPEC is JSON
  "$1" create -f - <<<"{\"apiVersion\":\"selvedge.dev/v1alpha1\",\"kind\":\"KeyRevocation\",\"metadata\":{
    \"name\":\"admission-$2\"},\"spec\":{$3}}"
}
revise() { # WHO NAME PATCH
  patch_at "$1" "apis/selvedge.dev/v1alpha1/keyrevocations/admission-$2" merge-patch "{\"spec\":$3}"
}
key=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
what="\"node\":\"admission-nowhere\",\"publicKeys\":[\"$key\"]"
denied "an agent revokes a key" "cannot create resource" revocation agent_a 1 "$what,\"revokedBy\":\"$me\""
denied "somebody revokes in another's name" "has to be $me" revocation operator 1 "$what,\"revokedBy\":\"somebody\""
denied "a key that is none" "publicKeys" revocation operator 1 \
  "\"node\":\"n\",\"publicKeys\":[\"x\"],\"revokedBy\":\"$me\""
allowed "an operator revokes a key" revocation operator 1 "$what,\"revokedBy\":\"$me\""
denied "an operator exchanges the key" "nothing can be changed" revise operator 1 \
  '{"publicKeys":["BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]}'
denied "an agent readmits a node" "cannot patch resource" revise agent_a 1 '{"readmittedBy":"x"}'
denied "somebody readmits in another's name" "is set once" revise impostor 1 "{\"readmittedBy\":\"$me\"}"
allowed "another operator readmits" revise impostor 1 '{"readmittedBy":"impostor"}'
denied "a readmission is taken back" "is set once" revise impostor 1 '{"readmittedBy":null}'
denied "an agent deletes a revocation" "cannot delete resource" agent_a delete keyrevocation admission-1

# Rights: what a stolen token may do beyond what any service account may.
rights() { "$1" auth can-i --list --no-headers -n "$2" | sed 's/  */ /g' | sort; }
beyond() { # WHO NAMESPACE
  comm -13 <(rights nobody "$2") <(rights "$1" "$2")
}
rights_are() { # CASE WHO NAMESPACE EXPECTED
  local found
  found=$(beyond "$2" "$3" | tr '\n' ';')
  if [ "$found" = "$4" ]; then pass "$1"; else fail "$1" "has $found instead of $4"; fi
}
slices='endpointslices.discovery.k8s.io [] [] [list watch];'
events='events.events.k8s.io [] [] [create];'
rotations='keyrevocations.selvedge.dev [] [] [list watch];keyrotations.selvedge.dev [] [] [list watch];keyrotations.selvedge.dev/status [] [] [patch];'
others='nodes [] [] [get list watch patch];nodes/status [] [] [patch];servicecidrs.networking.k8s.io [] [] [list watch];services [] [] [list watch];'
rights_are "rights of the agent in default" agent_a default "${slices}events.events.k8s.io [] [] [create patch];$rotations$others"
rights_are "rights of the agent in selvedge-system" agent_a $system "$slices$events$rotations$others"
rights_are "rights of the agent in kube-system" agent_a kube-system "$slices$events$rotations$others"
rights_are "rights of the tunnel in default" tunnel default ""
rights_are "rights of the tunnel in selvedge-system" tunnel $system ""
for what in secrets configmaps pods serviceaccounts; do
  denied "an agent lists all $what" "cannot list resource" agent_a get $what -A
done
denied "an agent makes a token" "cannot create resource" agent_a -n $system create token selvedge-agent
denied "an agent removes the policy" "cannot delete resource" agent_a delete validatingadmissionpolicybinding selvedge-nodes

# The policy holds for an agent that RBAC allows more, too.
operator create clusterrole admission-more --verb=create --resource=nodes >/dev/null
operator create clusterrolebinding admission-more --clusterrole=admission-more \
  --serviceaccount=$system:selvedge-agent >/dev/null
may_create() { [ "$(agent_a auth can-i create nodes)" = yes ]; }
within 10 "the agent to have the right to make Nodes" may_create
denied "an agent makes a Node where RBAC lets it" "may create no Node" create agent_a admission-d '}'

# And for whoever else RBAC allows to write Nodes from a pod of that very node.
operator create clusterrole admission-write --verb=get,patch --resource=nodes >/dev/null
operator create clusterrolebinding admission-write --clusterrole=admission-write \
  --serviceaccount=$system:admission-nobody >/dev/null
pod admission-nobody $a admission-nobody >/dev/null && token neighbour admission-nobody admission-nobody
may_patch() { [ "$(bare --token="$(<"$work/neighbour.token")" auth can-i patch nodes)" = yes ]; }
within 10 "another account to have the right to patch Nodes" may_patch
denied "another account on the node of agent_a changes its key" "$only" annotate neighbour $a selvedge.dev/public-key '"mine"'

# The controller manager's type checker, where there is one, has no doubt about the expressions.
policy() { operator get validatingadmissionpolicy "$checked" -o jsonpath="{$1}"; }
type_checked() { [ "$(policy .status.observedGeneration)" = "$(policy .metadata.generation)" ]; }
for checked in selvedge-nodes selvedge-events selvedge-key-rotations selvedge-key-revocations; do
  if [ -n "$(policy .status.observedGeneration)" ] && within 20 "the type checker" type_checked; then
    doubts=$(policy .status.typeChecking.expressionWarnings)
    if [ -z "$doubts" ]; then pass "the types of policy $checked"; else fail "the types of policy $checked" "$doubts"; fi
  fi
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
