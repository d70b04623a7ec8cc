#!/bin/sh
# Lists what is in the program, as CycloneDX 1.6 JSON: every crate that is compiled into it for TARGET (build tools are
# not), with the checksum that Cargo.lock has of it. The same Cargo.lock gives the same bytes.
#   deploy/image/sbom.sh [TARGET]
set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")/../.."
target=${1:-$(rustc -vV | sed -n 's/^host: //p')}

# As `cargo metadata`, but resolved for one target and one package, and readable without a JSON parser: name, version,
# licence, divided by bars.
cargo tree --locked --package selvedge --edges normal --target "$target" --prefix none --no-dedupe \
  --format '{p}|{l}' | sed 's/^\([^ ]*\) v\([^ |]*\)[^|]*|/\1|\2|/' | sort -u |
  awk -F '|' '
    # The checksums come first, from Cargo.lock.
    FILENAME == "Cargo.lock" {
      if ($0 ~ /^name = /) { name = $0; gsub(/^name = "|"$/, "", name) }
      if ($0 ~ /^version = /) { version = $0; gsub(/^version = "|"$/, "", version) }
      if ($0 ~ /^checksum = /) { sum = $0; gsub(/^checksum = "|"$/, "", sum); sums[name, version] = sum }
      next
    }
    # `A/B` is how crates once wrote `A OR B`.
    { licence = $3; gsub("/", " OR ", licence) }
    function component(type,    text) {
      text = "\"type\":\"" type "\",\"bom-ref\":\"pkg:cargo/" $1 "@" $2 "\",\"name\":\"" $1 "\",\"version\":\"" $2 "\""
      if (($1, $2) in sums) text = text ",\"hashes\":[{\"alg\":\"SHA-256\",\"content\":\"" sums[$1, $2] "\"}]"
      if (licence != "") text = text ",\"licenses\":[{\"expression\":\"" licence "\"}]"
      return "{" text ",\"purl\":\"pkg:cargo/" $1 "@" $2 "\"}"
    }
    $1 == "selvedge" { product = component("application"); next }
    { parts = parts (parts == "" ? "" : ",\n    ") component("library") }
    END {
      printf "{\n  \"bomFormat\": \"CycloneDX\",\n  \"specVersion\": \"1.6\",\n  \"version\": 1,\n"
      printf "  \"metadata\": {\"component\": %s},\n  \"components\": [\n    %s\n  ]\n}\n", product, parts
    }
  ' Cargo.lock -
