#!/usr/bin/env bash
# Installs what the tests need beyond the product: wg, wireguard-go and boringtun-cli, to talk to; nft, iptables, ss, curl, openssl; helm;
# the CNI project's bandwidth plugin, to be chained.
# Peers that have to be built go into a cache folder and are built once. Prints what it does only when it does it.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/selvedge
wireguard_go=v0.0.0-20250521234502-f333402bd9cb # has UDP segmentation offload, which Debian's has not
boringtun=0.7.1
helm=v3.19.0
cni_plugins=v1.9.1 # as tests/kubernetes/base/go.mod has it
mkdir -p "$cache/bin"

debian() { # package: installs it, if this is a Debian and we may
  if ! command -v apt-get >/dev/null; then
    echo "setup: install $1 with your package manager, then run this again" >&2
    return 1
  fi
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "setup: run 'apt-get install $1' as root, then run this again" >&2
      return 1
    fi
    root=(sudo)
  fi
  echo "setup: installing Debian's $1"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1" >/dev/null ||
    { "${root[@]}" apt-get update >/dev/null &&
      "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1" >/dev/null; }
}

# wg: the standard tool.
command -v wg >/dev/null || debian wireguard-tools

# nft: the lab cuts an agent off from the API server by it, and kube-proxy calls it.
command -v nft >/dev/null || [ -x /usr/sbin/nft ] || debian nftables

# iptables, both kinds: what nodes have beside us, whose tables our rules may be guests in.
[ -x /usr/sbin/iptables-nft ] && [ -x /usr/sbin/iptables-legacy ] || debian iptables

# ss, curl and openssl: the lab cuts connections on the real Kubernetes, asks etcd, and signs tokens.
command -v ss >/dev/null || debian iproute2
command -v curl >/dev/null || debian curl
command -v openssl >/dev/null || debian openssl

# wireguard-go: the module's version, else Debian's.
if [ ! -x "$cache/bin/wireguard-go-$wireguard_go" ]; then
  if command -v go >/dev/null; then
    echo "setup: building wireguard-go $wireguard_go"
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    GOBIN=$folder go install "golang.zx2c4.com/wireguard@$wireguard_go"
    mv "$folder/wireguard" "$cache/bin/wireguard-go-$wireguard_go"
  else
    command -v wireguard-go >/dev/null || debian wireguard-go
    cp "$(command -v wireguard-go)" "$cache/bin/wireguard-go-debian"
  fi
fi
if [ -x "$cache/bin/wireguard-go-$wireguard_go" ]; then
  ln -sf "wireguard-go-$wireguard_go" "$cache/bin/wireguard-go"
else
  ln -sf wireguard-go-debian "$cache/bin/wireguard-go"
fi

# helm: renders the chart for deploy/check.sh, which goes without it where there is no Go.
if [ ! -x "$cache/bin/helm-$helm" ] && command -v go >/dev/null; then
  echo "setup: building helm $helm"
  helm_folder=$(mktemp -d)
  if GOBIN=$helm_folder go install "helm.sh/helm/v3/cmd/helm@$helm"; then
    mv "$helm_folder/helm" "$cache/bin/helm-$helm"
    ln -sf "helm-$helm" "$cache/bin/helm"
  fi
  rm -rf "$helm_folder"
fi

# bandwidth: the module's version, else Debian's.
if [ ! -x "$cache/bin/cni-bandwidth-$cni_plugins" ]; then
  if command -v go >/dev/null; then
    echo "setup: building the CNI project's bandwidth plugin $cni_plugins"
    plugins_folder=$(mktemp -d)
    GOBIN=$plugins_folder go install "github.com/containernetworking/plugins/plugins/meta/bandwidth@$cni_plugins"
    mv "$plugins_folder/bandwidth" "$cache/bin/cni-bandwidth-$cni_plugins"
    rm -rf "$plugins_folder"
  else
    [ -x /usr/lib/cni/bandwidth ] || debian containernetworking-plugins
    cp /usr/lib/cni/bandwidth "$cache/bin/cni-bandwidth-debian"
  fi
fi
if [ -x "$cache/bin/cni-bandwidth-$cni_plugins" ]; then
  ln -sf "cni-bandwidth-$cni_plugins" "$cache/bin/cni-bandwidth"
else
  ln -sf cni-bandwidth-debian "$cache/bin/cni-bandwidth"
fi

# boringtun-cli: the other userspace implementation in Rust.
if [ ! -x "$cache/boringtun-$boringtun/bin/boringtun-cli" ]; then
  echo "setup: building boringtun-cli $boringtun"
  cargo install --quiet --locked --version "$boringtun" --root "$cache/boringtun-$boringtun" boringtun-cli
fi
ln -sf "../boringtun-$boringtun/bin/boringtun-cli" "$cache/bin/boringtun-cli"
