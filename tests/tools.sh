#!/usr/bin/env bash
# Kubernetes programs for the tests, built from source with Go, once, and kept outside the tree under $XDG_CACHE_HOME/tutti:
#
#   tests/tools.sh [kubectl]      prints a kubectl of 1.32 or newer: the machine's own, else one that is built
#   tests/tools.sh control-plane  prints a folder with etcd, kube-apiserver, kube-controller-manager and kube-scheduler:
#                                 $KUBEBUILDER_ASSETS where that is set, else one that is built
#   tests/tools.sh kubelet        the same with a kubelet in it
#   tests/tools.sh containers     prints a folder with containerd, its shim, ctr and runc, for the kubelet's containers
#
# Without Go (for runc also a C compiler) it prints nothing, and says on stderr what is skipped.
# KUBERNETES=1.35 chooses another minor version than that of tests/real/go.mod: that of tests/real/kubernetes-1.35.mod.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

# The version of Kubernetes that a module file asks for.
kubernetes_version() {
    sed -n 's/^\tk8s.io\/kubernetes v\([0-9.]*\).*/\1/p' "$1"
}

module=$root/tests/real/go.mod
version=$(kubernetes_version "$module")
if [ "${KUBERNETES:-${version%.*}}" != "${version%.*}" ]; then
    module=$root/tests/real/kubernetes-$KUBERNETES.mod
    if [ ! -f "$module" ]; then
        echo "KUBERNETES=$KUBERNETES: no ${module##*/} in tests/real; without KUBERNETES it is ${version%.*}" >&2
        exit 2
    fi
    version=$(kubernetes_version "$module")
fi
folder=${XDG_CACHE_HOME:-$HOME/.cache}/tutti/kubernetes-$version
control_plane=(kube-apiserver kube-controller-manager kube-scheduler etcd)

# build SKIPPED PROGRAM...: those that are not there yet; false without Go.
build() {
    local skipped=$1 name package
    shift
    mkdir -p "$folder"
    exec 9>"$folder/lock"
    flock 9 # another run may be building the same
    for name in "$@"; do
        [ ! -x "$folder/$name" ] || continue
        if ! command -v go >/dev/null 2>&1; then
            echo "no $name, and no Go to build one: $skipped" >&2
            return 1
        fi
        echo "building $name (Kubernetes $version) ..." >&2
        package=k8s.io/kubernetes/cmd/$name
        [ "$name" != etcd ] || package=go.etcd.io/etcd/server/v3
        local stamp=k8s.io/component-base/version
        local flags="-X $stamp.gitVersion=v$version -X $stamp.gitMajor=${version%%.*} -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version")"
        (cd "$root/tests/real" && nice -n 19 go build -modfile "$module" -trimpath -ldflags "$flags" \
            -o "$folder/$name.partial" "$package" >&2) || exit 1
        mv "$folder/$name.partial" "$folder/$name"
    done
}

# The version of a module among the containers' requirements.
containers_version() {
    sed -n "s|^\t$1 v\([0-9.]*\).*|\1|p" "$root/tests/real/containers/go.mod"
}

# What runs the kubelet's containers, as far as it is not there yet; prints its folder. False without Go or a C compiler.
build_containers() {
    local containerd=github.com/containerd/containerd/v2 runc=github.com/opencontainers/runc to name needed
    to=${XDG_CACHE_HOME:-$HOME/.cache}/tutti/containerd-$(containers_version $containerd)-runc-$(containers_version $runc)
    mkdir -p "$to"
    exec 8>"$to/lock"
    flock 8
    for name in containerd containerd-shim-runc-v2 ctr runc; do
        [ ! -x "$to/$name" ] || continue
        for needed in go gcc; do
            if ! command -v $needed >/dev/null 2>&1; then
                echo "no containerd with runc, and no $needed to build them: the tests with a real kubelet are skipped" >&2
                return 1
            fi
        done
        echo "building $name (${to##*/}) ..." >&2
        local package=$containerd/cmd/$name cgo=0
        [ $name != runc ] || package=$runc cgo=1
        (cd "$root/tests/real/containers" && CGO_ENABLED=$cgo nice -n 19 \
            go build -trimpath -tags no_btrfs,no_devmapper,no_zfs -o "$to/$name.partial" $package >&2) || exit 1
        mv "$to/$name.partial" "$to/$name"
    done
    echo "$to"
}

case ${1:-kubectl} in
kubectl)
    if command -v kubectl >/dev/null 2>&1; then
        minor=$(kubectl version --client 2>/dev/null | sed -n 's/^Client Version: v1\.\([0-9]*\).*/\1/p')
        if [ "${minor:-0}" -ge 32 ]; then
            command -v kubectl
            exit
        fi
    fi
    ! build "the tests that drive kubectl are skipped" kubectl || echo "$folder/kubectl"
    ;;
control-plane)
    if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
        echo "$KUBEBUILDER_ASSETS"
    elif build "the tests on a real control plane are skipped" "${control_plane[@]}"; then
        echo "$folder"
    fi
    ;;
kubelet)
    ! build "the tests with a real kubelet are skipped" "${control_plane[@]}" kubelet || echo "$folder"
    ;;
containers)
    build_containers || true
    ;;
*)
    echo "tests/tools.sh: no such thing as $1; kubectl, control-plane, kubelet or containers" >&2
    exit 2
    ;;
esac
