#!/usr/bin/env bash
# Prints the kubectl (1.32 or newer) that the tests drive: the machine's own, else one built from source with Go, once, and
# kept outside the tree under $XDG_CACHE_HOME/tutti. Without Go it prints nothing, and the tests that need kubectl say so.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
version=$(sed -n 's/^\tk8s.io\/kubernetes v\([0-9.]*\).*/\1/p' "$root/tests/real/go.mod" | head -n 1)
built=${XDG_CACHE_HOME:-$HOME/.cache}/tutti/bin/kubectl-$version

if command -v kubectl >/dev/null 2>&1; then
    minor=$(kubectl version --client 2>/dev/null | sed -n 's/^Client Version: v1\.\([0-9]*\).*/\1/p')
    if [ "${minor:-0}" -ge 32 ]; then
        command -v kubectl
        exit
    fi
fi
if [ ! -x "$built" ]; then
    if ! command -v go >/dev/null 2>&1; then
        echo "no kubectl of 1.32 or newer, and no Go to build one: the tests that drive kubectl are skipped" >&2
        exit
    fi
    echo "building kubectl $version ..." >&2
    mkdir -p "$(dirname "$built")"
    stamp=k8s.io/component-base/version
    flags="-X $stamp.gitVersion=v$version -X $stamp.gitMajor=${version%%.*} -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version")"
    (cd "$root/tests/real" && go build -trimpath -ldflags "$flags" -o "$built.partial" k8s.io/kubernetes/cmd/kubectl)
    mv "$built.partial" "$built"
fi
echo "$built"
