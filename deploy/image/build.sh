#!/bin/sh
# Builds the image without a container engine: an OCI layout as a tar, and its list of parts (SBOM) beside it.
#   deploy/image/build.sh FOLDER
# Load it with `ctr -n k8s.io images import FOLDER/selvedge-VERSION-ARCH.tar`, `docker load -i` (25 or newer) or
# `kind load image-archive`. The same program gives the same bytes: nothing of this machine is in it, neither time nor
# path. IMAGE is the name that the image gets. SELVEDGE_BINARY, if set, is taken instead of building one.
set -eu
umask 022
LC_ALL=C
export LC_ALL

[ $# -eq 1 ] || { sed -n '2,6s/^# //p' "$0"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
target=$(rustc -vV | sed -n 's/^host: //p')
image=${IMAGE:-localhost/selvedge:$version}
case $target in
  x86_64-*) arch=amd64 ;;
  aarch64-*) arch=arm64 ;;
  *) echo "build.sh: no image architecture is known for $target" >&2; exit 1 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The program: static, because there is nothing beside it in the image.
binary=${SELVEDGE_BINARY:-}
if [ -z "$binary" ]; then
  cargo_home=${CARGO_HOME:-$HOME/.cargo}
  RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$PWD=/selvedge" \
    CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    cargo build --release --locked --target "$target" --package selvedge --bin selvedge
  binary=${CARGO_TARGET_DIR:-target}/$target/release/selvedge
fi

sum() { sha256sum "$1" | cut -d ' ' -f 1; }
size() { wc -c <"$1" | tr -d ' '; }

# pack FOLDER NAME...: a tar of these that depends on nothing but their content. POSIX headers hold no names of users.
pack() {
  folder=$1
  shift
  tar --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w \
    --directory "$folder" "$@"
}

# blob FILE TYPE: moves the file to where its digest says, and leaves its descriptor in $descriptor.
blob() {
  digest=$(sum "$1")
  descriptor="\"mediaType\":\"$2\",\"digest\":\"sha256:$digest\",\"size\":$(size "$1")"
  mv "$1" "$work/layout/blobs/sha256/$digest"
}

name=selvedge-$version-$arch
mkdir -p "$work/root" "$work/layout/blobs/sha256"
cp "$binary" "$work/root/selvedge"
chmod 0755 "$work/root/selvedge"
deploy/image/sbom.sh "$target" >"$work/root/sbom.cdx.json"
chmod 0644 "$work/root/sbom.cdx.json"
cp "$work/root/sbom.cdx.json" "$out/$name.cdx.json"

pack "$work/root" sbom.cdx.json selvedge >"$work/layer.tar"
diff_id=$(sum "$work/layer.tar")
gzip -n -9 <"$work/layer.tar" >"$work/layer"
blob "$work/layer" application/vnd.oci.image.layer.v1.tar+gzip
layer=$descriptor

labels="\"org.opencontainers.image.title\":\"selvedge\",\"org.opencontainers.image.version\":\"$version\""
labels="$labels,\"org.opencontainers.image.licenses\":\"Apache-2.0\""
printf '%s' "{\"architecture\":\"$arch\",\"os\":\"linux\",\"created\":\"1970-01-01T00:00:00Z\",\"config\":{\
\"Entrypoint\":[\"/selvedge\"],\"WorkingDir\":\"/\",\"Labels\":{$labels}},\
\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$diff_id\"]},\
\"history\":[{\"created\":\"1970-01-01T00:00:00Z\",\"created_by\":\"deploy/image/build.sh\"}]}" >"$work/config"
blob "$work/config" application/vnd.oci.image.config.v1+json
config=$descriptor

printf '%s' "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
\"config\":{$config},\"layers\":[{$layer}]}" >"$work/manifest"
blob "$work/manifest" application/vnd.oci.image.manifest.v1+json
manifest=$digest

printf '%s' "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{$descriptor,\
\"annotations\":{\"io.containerd.image.name\":\"$image\",\"org.opencontainers.image.ref.name\":\"${image##*:}\"},\
\"platform\":{\"architecture\":\"$arch\",\"os\":\"linux\"}}]}" >"$work/layout/index.json"
printf '%s' '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"
pack "$work/layout" blobs index.json oci-layout >"$out/$name.tar"

echo "$image"
echo "  manifest  sha256:$manifest"
for made in "$work/root/selvedge" "$out/$name.tar" "$out/$name.cdx.json"; do
  printf '  %9s bytes  sha256:%s  %s\n' "$(size "$made")" "$(sum "$made")" "${made#"$work/root"}"
done
