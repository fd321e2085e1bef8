"""Programs that play NVIDIA's, for a machine that is made up: a real daemon without a GPU, and time slices in files.

They are scripts of a POSIX shell, run as the real ones are: what the plugin leaves behind can be seen with `ps`.
"""

from pathlib import Path

from dra_driver.commands import IMEX_CTL, MPS_CONTROL, SMI, Tools

# `-d` detaches a daemon that notes its number and its limits; without it, a line each of stdin is told to the daemon.
_CONTROL = r"""#!/bin/sh
pipe=${CUDA_MPS_PIPE_DIRECTORY:?is not set}
log=${CUDA_MPS_LOG_DIRECTORY:?is not set}
note=$pipe/nvidia-cuda-mps-control.pid
# A daemon that was killed may wait as a zombie for a parent that never asks.
answers() {
    pid=$(cat "$note" 2>/dev/null) && test -p "$pipe/control" && kill -0 "$pid" 2>/dev/null &&
        ! grep -q ') Z ' "/proc/$pid/stat" 2>/dev/null
}
case "$1" in
--serve)
    rm -f "$pipe/control"; mkfifo "$pipe/control" || exit 1
    exec 3<>"$pipe/control"
    trap 'rm -f "$pipe/control" "$note"; exit 0' TERM
    echo $$ >"$note.new" && mv "$note.new" "$note"
    while read -r line <&3; do test "$line" = quit && break; done
    rm -f "$pipe/control" "$note"
    exit 0;;
-d)
    answers && { echo "An instance of this daemon is already running" >&2; exit 1; }
    echo "started $CUDA_VISIBLE_DEVICES${2:+ $2}" >>"$log/control.log"
    setsid "$0" --serve </dev/null >/dev/null 2>&1 3>&- &
    exit 0;;
'')
    answers || { echo "Cannot find MPS control daemon process" >&2; exit 1; }
    while read -r line; do
        test "$line" = get_server_list && { cat "$pipe/servers" 2>/dev/null; continue; }
        echo "$line" >>"$log/control.log"
        test "$line" = quit && echo quit >"$pipe/control"
    done
    exit 0;;
*)
    echo "unknown option $1" >&2; exit 1;;
esac
"""
_SMI = r"""#!/bin/sh
test "$1 $2 $4" = "compute-policy -i --set-timeslice" || { echo "unknown option $*" >&2; exit 2; }
case "$5" in [0-3]) ;; *) echo "invalid timeslice $5" >&2; exit 2;; esac
mkdir -p "$(dirname "$0")/time-slices" && echo "$5" >"$(dirname "$0")/time-slices/$3"
"""
# A file stands where the service's socket would be, and says how the service is.
_IMEX = r"""#!/bin/sh
test "$1 $2" = "-q -u" || { echo "unknown option $*" >&2; exit 1; }
cat "$3" 2>/dev/null || { echo "Failed to connect to $3" >&2; exit 1; }
"""


def fake_tools(folder: Path) -> Tools:
    """Write the programs into a folder. Time slices are in its `time-slices/<uuid>`; what a daemon was told is in its
    log/control.log; the numbers of servers that it says it has are taken from its pipe/servers. How the IMEX service is
    stands in the file that is its socket (`dra_driver.host.fake_host`)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((MPS_CONTROL, _CONTROL), (SMI, _SMI), (IMEX_CTL, _IMEX)):
        path = folder / name
        # A script that is being run is not written to, but replaced.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            new = folder / f".{name}.new"
            new.write_text(text, encoding="utf-8")
            new.chmod(0o755)
            new.replace(path)
    return Tools(
        mps_control=str(folder / MPS_CONTROL),
        smi=str(folder / SMI),
        imex_ctl=str(folder / IMEX_CTL),
        own_shm=False,
    )
