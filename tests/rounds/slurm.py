"""A real Slurm of one machine without installation: Debian's packages in a folder, its daemons started there.

    python -m tests.rounds.slurm FOLDER      # fetches and unpacks, where apt-get has Debian's packages

`tests/rounds/test_slurm.py` runs where LLAMA_ALIGN_SLURM names that folder.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PACKAGES = (
    *("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "libmunge2", "libhwloc15"),
    *("libjson-c5", "liblua5.1-0", "libnuma1", "libyaml-0-2", "libdbus-1-3"),
)
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=2
CredType=cred/munge
PluginDir={root}/usr/lib/x86_64-linux-gnu/slurm-wlm
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldPort={port}
SlurmdPort={port_of_node}
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=5
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=p Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def unpack(folder: Path) -> None:
    """Fetches the packages with apt-get and unpacks them into `folder`, without installing anything."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)


class Slurm:
    """Daemons below this process. environment: what sbatch, squeue and the others need to find them."""

    def __init__(self, root: Path, place: Path, port: int):
        self.root, self.place, self.port = root.resolve(), place, port
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        paths = f"{self.root}/usr/bin:{self.root}/usr/sbin:{os.environ['PATH']}"
        self.environment = {
            **{"PATH": paths, "SLURM_CONF": str(place / "slurm.conf")},
            "LD_LIBRARY_PATH": f"{libraries}:{libraries}/slurm-wlm",
        }
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> "Slurm":
        for name in ("state", "spool"):
            (self.place / name).mkdir(parents=True)
        names = {"host": os.uname().nodename, "place": self.place, "root": self.root}
        text = CONFIGURATION.format(port=self.port, port_of_node=self.port + 1, **names)
        (self.place / "slurm.conf").write_text(text)
        key = self.place / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [
            f"--{name}={self.place}/munge.{name.partition('-')[0]}" for name in ("key-file", "pid-file", "log-file")
        ]
        seed = f"--seed-file={self.place}/munge.seed"
        self._start("munged", "--foreground", "--force", f"--socket={self.place}/munge.socket", *files, seed)
        self._wait(lambda: (self.place / "munge.socket").exists())
        self._start("slurmctld-wlm", "-D", "-i", "-f", self.environment["SLURM_CONF"])
        stepd = self.root / "usr/sbin/slurmstepd-wlm"
        self._start("slurmd-wlm", "-D", "-f", self.environment["SLURM_CONF"], "-d", str(stepd))
        self._wait(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"))
        return self

    def __exit__(self, *_) -> None:
        self.ask("scancel", "--state=PENDING", "--user=root")
        self.ask("scancel", "--user=root", "--signal=KILL", "--full")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()

    def _start(self, name: str, *options: str) -> None:
        with (self.place / f"{name}.out").open("wb") as log:
            command = [str(self.root / "usr/sbin" / name), *options]
            environment = os.environ | self.environment
            self._daemons.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, check=False)
        return done.stdout

    def _wait(self, there, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not there():
            if time.monotonic() > until:
                logs = "\n".join(
                    path.read_text()[-2000:] for path in (*self.place.glob("*.log"), *self.place.glob("*.out"))
                )
                raise RuntimeError(f"Slurm did not start:\n{logs}")
            time.sleep(0.2)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
