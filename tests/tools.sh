#!/usr/bin/env bash
# Makes sure that a kubectl of 1.32 or newer is there for the tests: the machine's own, else one built from source with Go.
# Built once and kept outside the tree, under $XDG_CACHE_HOME/tutti. Without Go nothing is built and the tests that need kubectl say so.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tutti/bin
version=$(sed -n 's/^\tk8s.io\/kubernetes v\([0-9.]*\).*/\1/p; s/^require k8s.io\/kubernetes v\([0-9.]*\).*/\1/p' "$root/tests/real/go.mod" | head -n 1)
built=$cache/kubectl-$version

if command -v kubectl >/dev/null 2>&1; then
    minor=$(kubectl version --client 2>/dev/null | sed -n 's/^Client Version: v1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge 32 ] && exit 0
fi
[ -x "$built" ] && exit 0
if ! command -v go >/dev/null 2>&1; then
    echo "no kubectl of 1.32 or newer and no Go to build one: tests that drive kubectl are skipped"
    exit 0
fi
echo "building kubectl $version ..."
mkdir -p "$cache"
(cd "$root/tests/real" && go build -trimpath -o "$built.partial" k8s.io/kubernetes/cmd/kubectl)
mv "$built.partial" "$built"
