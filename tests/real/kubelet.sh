#!/usr/bin/env bash
# The first process of a node's namespaces: starts containerd and the kubelet there, and ends when one of them does.
# At the signal USR1 the kubelet is killed and started anew; then there is one line more in the file restarts.
# Runs in the node's folder, which has their configurations. Arguments: the kubelet's folder, the containers', the name.
set -euo pipefail
node=$PWD kubernetes=$1 containers=$2 name=$3

# What these programs write outside of the node's folder, whatever they are told, stays in here.
mkdir kubernetes containers
mount --bind "$kubernetes" kubernetes
mount --bind "$containers" containers
for hidden in /run /var/lib /var/log; do
    mount -t tmpfs tmpfs $hidden
done
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    copy=$node/sysctl/${setting//\//.}
    cat /proc/sys/$setting >"$copy"
    mount --bind "$copy" /proc/sys/$setting
done

export PATH=$node/bin:$node/containers:$PATH
containerd --config containerd.toml >containerd.log 2>&1 &
ask=(ctr --address "$node/containerd.sock" --namespace k8s.io)
until "${ask[@]}" version >/dev/null 2>&1; do
    kill -0 $! # gone: so are we
    sleep 0.05
done
"${ask[@]}" images import --local --snapshotter native image.tar >>containerd.log 2>&1
start_kubelet() {
    kubernetes/kubelet --config kubelet.json --kubeconfig kubeconfig --root-dir "$node/kubelet" \
        --cert-dir "$node/kubelet/pki" --hostname-override "$name" --v 2 >>kubelet.log 2>&1 &
    kubelet=$!
}
restart_kubelet() {
    kill -KILL $kubelet
    wait $kubelet || true
    start_kubelet
    echo "$kubelet" >>restarts
    restarted=yes
}
trap restart_kubelet USR1
start_kubelet
while :; do
    restarted=
    wait -n || true
    [ -n "$restarted" ] || exit 1
done
