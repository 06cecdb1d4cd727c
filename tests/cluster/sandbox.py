"""A machine within the machine: devcluster can be started, killed and ended in it without touching another cluster.

It has mount, network, pid and cgroup namespaces of its own, its own /run and those folders of /var that daemons
write to, and a pid 1 that does nothing but reap. What runs in it ends with it; `crash` ends it as a power cut would,
and the next `boot` finds the files that the last one left.
"""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from devcluster.gobuild import PAUSE, binary, build_missing

ROOT = Path(__file__).resolve().parents[2]
CGROUPS = Path("/sys/fs/cgroup")
OWN_FOLDERS = ("run", "var/log", "var/lib/kubelet", "var/lib/cni")

_SETUP = """\
set -e
mount -t proc proc /proc
# Copies of another cluster's mounts, which would keep what it unmounts busy.
for point in $(awk '$5 ~ "^/run/" || $5 ~ "/[.]cluster/" {print $5}' /proc/self/mountinfo | sort -r); do
    # A pod that ends meanwhile takes its own along.
    umount --lazy "$point" || ! grep -q " $point " /proc/self/mountinfo
done
for folder in $SANDBOX_FOLDERS; do mkdir -p "/$folder"; mount --bind "$SANDBOX_DISK/$folder" "/$folder"; done
mount -t sysfs sysfs /sys
if [ -z "$SANDBOX_HIERARCHIES" ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir /sys/fs/cgroup/init
    echo $$ > /sys/fs/cgroup/init/cgroup.procs
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for name in $SANDBOX_HIERARCHIES; do
        mkdir "/sys/fs/cgroup/$name"
        case $name in
            unified) mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
            systemd) mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd ;;
            *) mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" ;;
        esac
    done
fi
ip link set lo up
echo ready
exec "$SANDBOX_PAUSE"
"""
_JOIN = 'for file in {files}; do echo $$ > "$file"; done; exec "$@"'


class Machine:
    """One such machine; `disk` keeps what survives a crash, `checkout` is where devcluster is run from."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "disk"
        self.checkout = folder / "checkout"
        self.checkout.mkdir(parents=True)
        for name in OWN_FOLDERS:
            (self.disk / name).mkdir(parents=True)
        v2 = (CGROUPS / "cgroup.controllers").exists()
        self._hierarchies = [] if v2 else sorted(path.parent.name for path in CGROUPS.glob("*/cgroup.procs"))
        name = f"questline-sandbox-{os.getpid()}-{time.monotonic_ns()}"
        self._cgroups = [CGROUPS / hierarchy / name for hierarchy in self._hierarchies or [""]]
        self._unshare: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self) -> None:
        build_missing((PAUSE,), print)
        for folder in self._cgroups:
            folder.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems") if folder.parent.name == "cpuset" else ():
                (folder / name).write_text((folder.parent / name).read_text())
        environment = {
            "SANDBOX_HIERARCHIES": " ".join(self._hierarchies),
            "SANDBOX_FOLDERS": " ".join(OWN_FOLDERS),
            "SANDBOX_DISK": str(self.disk),
            "SANDBOX_PAUSE": str(binary("pause")),
        }
        files = " ".join(f"{folder}/cgroup.procs" for folder in self._cgroups)
        self._unshare = subprocess.Popen(
            [
                *("sh", "-c", _JOIN.format(files=files), "sh"),
                *("unshare", "--mount", "--propagation", "private", "--net", "--pid", "--cgroup"),
                *("--fork", "--kill-child", "sh", "-c", _SETUP),
            ],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        assert self._unshare.stdout is not None
        assert self._unshare.stdout.readline() == b"ready\n", "the sandbox could not be set up; see stderr"
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text()
        self._init = int(children.split()[0])

    def command(self, *command: str) -> list[str]:
        """The argv that runs a command inside, from the checkout."""
        if self._hierarchies:
            files = " ".join(f"/sys/fs/cgroup/{name}/cgroup.procs" for name in self._hierarchies)
        else:
            files = "/sys/fs/cgroup/init/cgroup.procs"
        enter = ["nsenter", "--target", str(self._init), "--all", f"--wd={self.checkout}", "--"]
        return [*enter, "sh", "-c", _JOIN.format(files=files), "sh", *command]

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command inside to its end; its own exit status is the caller's to judge."""
        where = ["env", f"--chdir={cwd}"] if cwd else []
        return subprocess.run(
            self.command(*where, *command),
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def devcluster(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "devcluster", *arguments, cwd=cwd)

    def ps(self) -> dict[int, list[str]]:
        """Every process inside but pid 1 and zombies: its pid, as seen inside, and argv."""
        lister = (
            "import json; from devcluster.processes import processes; "
            "print(json.dumps({pid: argv for pid, argv in processes()}))"
        )
        done = self.run(sys.executable, "-c", lister)
        found = {int(pid): argv for pid, argv in json.loads(done.stdout).items()}
        return {pid: argv for pid, argv in found.items() if pid != 1 and lister not in argv}

    def crash(self) -> None:
        """Ends every process inside at once; files stay."""
        if self._unshare is None:
            return
        pidfd = os.pidfd_open(self._init)
        self._unshare.kill()  # and --kill-child ends pid 1, with it all others
        select.select([pidfd], [], [], 30)
        os.close(pidfd)
        self._unshare.communicate()
        self._unshare = None
        for folder in self._cgroups:
            below = sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
            for path in (*below, folder):
                path.rmdir()
