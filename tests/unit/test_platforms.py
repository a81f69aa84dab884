"""Windows and macOS: the package without what only Linux has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ecg_files import write_some

ELSEWHERE = """
import os, signal, sys, warnings
import torch, torch._dynamo, torch.distributed.checkpoint, multiprocessing.popen_spawn_posix
import scipy.signal, sklearn.linear_model, matplotlib.pyplot, h5py, pydicom, wfdb, PIL.Image
warnings.simplefilter("ignore")  # filelock regrets that there is no fcntl
sys.platform = "win32"
for name in "fcntl resource termios tty pty pwd grp syslog readline".split():
    sys.modules[name] = None
for name in [name for name in sys.modules if name.partition(".")[0] == "filelock"]:
    del sys.modules[name]
sys.platform = "elsewhere"
for name in (
    "fork forkpty register_at_fork killpg setsid getuid geteuid getgid getpgid uname sysconf mkfifo"
    " getloadavg statvfs fstatvfs pread pwrite posix_fadvise posix_fallocate fdatasync nice"
    " sched_getaffinity sched_setaffinity sched_yield"
).split():
    delattr(os, name)
for name in (
    "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGBUS SIGPIPE SIGQUIT setitimer alarm ITIMER_REAL"
    " pthread_sigmask siginterrupt"
).split():
    delattr(signal, name)
"""
EVERY_MODULE = """
import importlib, pkgutil, latentcast
for module in pkgutil.walk_packages(latentcast.__path__, "latentcast."):
    if module.name != "latentcast.__main__":
        importlib.import_module(module.name)
"""
EVERY_DAY = """
import latentcast as lc
from latentcast import cli
lc.ingest("in", "store", fs=100, workers=1, quiet=True)
lc.train("ijepa-ecg-tiny", "store", "run", set=["train.steps=2", "optimizer.warmup_steps=1"])
for arguments in (["runs", "."], ["report", "run"]):
    sys.argv = ["latentcast", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, arguments
"""


def test_something_is_needed_that_only_linux_has(tmp_path: Path) -> None:
    write_some(tmp_path / "in", 8, 10.0)
    program = ELSEWHERE + EVERY_MODULE + EVERY_DAY
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
