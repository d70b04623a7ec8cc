#!/usr/bin/env bash
# Fills FOLDER with what the images of upstream's end-to-end tests hold besides agnhost, from Debian's packages. Needs
# apt but not root: packages are fetched and unpacked, not installed.
set -euo pipefail
root=${1:?root.sh FOLDER}

# hostname, nc, wget and the shell are not busybox's: the tests use options that its own lack, its wget breaks off with a
# segmentation fault where it has a timeout, and its shell takes its own applets before anything in PATH.
packages=(bind9-dnsutils busybox-static conntrack curl dash hostname iproute2 libc-bin netcat-openbsd wget)

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "kubernetes: the images of the end-to-end tests are made of Debian's packages: run this on a Debian" >&2
  exit 1
fi
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir "$state/state" "$state/cache"
: >"$state/status" # nothing is installed, so that apt fetches everything that the packages need
apt=(apt-get -qq -o Dir::State="$state/state" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache"
  -o APT::Sandbox::User="$(id -un)")
"${apt[@]}" update >&2
"${apt[@]}" install -y --no-install-recommends --download-only "${packages[@]}" >&2

mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
for package in "$state"/cache/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink --no-same-owner -C "$root"
done
rm -rf "$root"/usr/share "$root"/usr/lib/*/gconv "$root"/{dev,etc,proc,run,sys,var}
mkdir "$root"/{etc,uploads}

ln -sf dash "$root/usr/bin/sh"
"$root/usr/bin/busybox" --list | while read -r applet; do
  [ -e "$root/usr/bin/$applet" ] || [ -e "$root/usr/sbin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
done
ln -sf nc.openbsd "$root/usr/bin/nc"

# As upstream's: a test of supplemental groups looks for the user that the image defines.
cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/:/bin/sh
user-defined-in-image:x:1000:1000::/:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/sh
END
cat >"$root/etc/group" <<'END'
root:x:0:
user-defined-in-image:x:1000:
group-defined-in-image:x:50000:user-defined-in-image
nogroup:x:65534:
END
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
