"""A control plane: etcd, kube-apiserver, kube-controller-manager and, if asked for, kube-scheduler, on loopback.

The API server makes its certificate and the key of its service account tokens when it starts. Whoever reaches the
kubeconfig of the administrator is one; RBAC holds for everybody else.
"""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

HOST = "127.0.0.1"
PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1

# How fast the controllers may write. By default 20 a second, which makes the claims of 1,000 pods last 100 s.
_CONTROLLER_QPS = 1000
# Simulated nodes send no heartbeats: nobody may miss them.
_NODE_GRACE = "8760h"

# What must be there before anything can be made in a namespace: their controllers run a moment after the API does.
_FURNITURE = ("serviceaccounts/default", "configmaps/kube-root-ca.crt")


class ControlPlaneError(Exception):
    """A control plane that cannot start. Names the program, the cause and where its log is."""


class ControlPlane:
    """`with ControlPlane(assets, folder) as plane:` serves until the block ends; `folder` keeps data, keys and logs.

    `assets`: where the programs are. `scheduler`: also a kube-scheduler. `gates`: feature gates, as "A=true,B=false".
    `options`: further arguments by program."""

    def __init__(
        self,
        assets: Path,
        folder: Path,
        *,
        scheduler: bool = False,
        gates: str = "",
        options: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._assets, self.folder, self._scheduler = assets, folder, scheduler
        self._gates, self._options = gates, options or {}
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens = {name: secrets.token_hex(16) for name in ("admin", "controllers", "scheduler")}
        self._port, self._etcd_port, self._peer_port = _free_ports(3)

    @property
    def server(self) -> str:
        """Where the API server listens."""
        return f"https://{HOST}:{self._port}"

    @property
    def certificate(self) -> Path:
        """What clients trust."""
        return self.folder / "certificates" / "apiserver.crt"

    @property
    def admin(self) -> Path:
        """The kubeconfig of the administrator."""
        return self.folder / "admin.kubeconfig"

    def __enter__(self) -> "ControlPlane":
        needed = ["etcd", "kube-apiserver", "kube-controller-manager", *(["kube-scheduler"] if self._scheduler else [])]
        missing = [name for name in needed if not os.access(self._assets / name, os.X_OK)]
        if missing:
            cure = "make real builds them, or KUBEBUILDER_ASSETS names a folder that has them"
            raise ControlPlaneError(f"{self._assets} has no {', '.join(missing)}; {cure}")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the programs, clients first. They are killed: what they hold is thrown away."""
        for process in reversed(self._programs.values()):
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._programs.clear()

    def kubeconfig(self, path: Path, token: str) -> Path:
        """Write the kubeconfig of whoever has this token; its path."""
        return write_kubeconfig(path, self.server, token, self.certificate)

    # --- the programs -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._start_etcd()
        self._start_apiserver()
        self.kubeconfig(self.admin, self._tokens["admin"])
        self._start_controllers()
        if self._scheduler:
            self._start_scheduler()
        self._wait("kube-controller-manager", self._furnished)

    def _start_etcd(self) -> None:
        url, peers = f"http://{HOST}:{self._etcd_port}", f"http://{HOST}:{self._peer_port}"
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--log-level=warn",
            "--unsafe-no-fsync",  # nothing in it outlives it
        )

    def _start_apiserver(self) -> None:
        users = {
            "admin": ("admin", "system:masters"),
            "controllers": ("system:kube-controller-manager", ""),
            "scheduler": ("system:kube-scheduler", ""),
        }
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(
            "".join(f'{self._tokens[key]},{user},{key},"{group}"\n' for key, (user, group) in users.items())
        )
        certificates = self.certificate.parent
        key = certificates / "apiserver.key"  # made before it is read as the key of service accounts
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://{HOST}:{self._etcd_port}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            "--endpoint-reconciler-type=none",  # an endpoint cannot be on loopback
            f"--secure-port={self._port}",
            f"--cert-dir={certificates}",
            f"--service-account-issuer={self.server}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--token-auth-file={tokens}",
            "--allow-privileged=true",  # as every cluster does that runs drivers in pods
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
        )
        self._wait("kube-apiserver", lambda: self._get("/readyz") == b"ok")

    def _start_controllers(self) -> None:
        path = self.kubeconfig(self.folder / "controllers.kubeconfig", self._tokens["controllers"])
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={path}",
            "--use-service-account-credentials",
            f"--root-ca-file={self.certificate}",
            f"--kube-api-qps={_CONTROLLER_QPS}",
            f"--kube-api-burst={2 * _CONTROLLER_QPS}",
            f"--node-monitor-grace-period={_NODE_GRACE}",
            "--leader-elect=false",
            "--secure-port=0",
        )

    def _start_scheduler(self) -> None:
        path = self.kubeconfig(self.folder / "scheduler.kubeconfig", self._tokens["scheduler"])
        self._run("kube-scheduler", f"--kubeconfig={path}", "--leader-elect=false", "--secure-port=0")

    def _run(self, name: str, *arguments: str) -> None:
        if self._gates and name != "etcd":
            arguments = (*arguments, f"--feature-gates={self._gates}")
        with self._log(name).open("wb") as log:
            self._programs[name] = subprocess.Popen(
                [self._assets / name, *arguments, *self._options.get(name, ())],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we end them in order
                preexec_fn=die_with_parent,
            )

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    # --- are they ready ---------------------------------------------------------------------------------------------

    def _wait(self, name: str, holds: Callable[[], bool]) -> None:
        """Until it holds. Raises ControlPlaneError if a program ends first, or if it takes too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._holds(holds):
            ended = [program for program, process in self._programs.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                what = f"{ended[0]} ended" if ended else f"{name} was not ready after {PATIENCE_SECONDS:g} s"
                log = self._log(ended[0] if ended else name)
                last = log.read_text(errors="replace").splitlines()[-5:]
                raise ControlPlaneError("\n".join([f"{what}; see {log}:", *last]))
            time.sleep(_LOOK_SECONDS)

    @staticmethod
    def _holds(holds: Callable[[], bool]) -> bool:
        try:
            return holds()
        except OSError:  # nobody listens yet, or the certificate is not there yet
            return False

    def _furnished(self) -> bool:
        base = "/api/v1/namespaces/default"
        return all(self._get(f"{base}/{item}") for item in (*_FURNITURE, "services/kubernetes"))

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(
            self.server + path, headers={"Authorization": f"Bearer {self._tokens['admin']}"}
        )
        context = ssl.create_default_context(cafile=self.certificate)
        with urllib.request.urlopen(request, context=context, timeout=5) as answer:
            found: bytes = answer.read()
            return found


def write_kubeconfig(path: Path, server: str, token: str, certificate: Path | None = None) -> Path:
    """A kubeconfig for one user of one server, readable by us alone; its path."""
    cluster: dict[str, Any] = {"server": server}
    if certificate is not None:
        cluster["certificate-authority"] = str(certificate)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "real", "cluster": cluster}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "real", "namespace": "default"}}],
        "current-context": "real",
        "users": [{"name": "real", "user": {"token": token}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2) + "\n")  # JSON is YAML
    return path


def programs() -> Path | None:
    """The folder with the programs of a control plane, built if need be. None where they cannot be had."""
    script = Path(__file__).parents[1] / "tools.sh"
    found = subprocess.run([script, "control-plane"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return Path(found) if found else None


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(_bound()).getsockname()[1] for _ in range(count)]


@contextlib.contextmanager
def _bound() -> Iterator[socket.socket]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        yield probe


def die_with_parent() -> None:
    """In the child: however this process ends, nothing of it stays."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
