"""An interpreter with transformers 4.57: a virtual environment of its own, built once and kept in `.cache/`."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".cache" / "transformers-4.57"

TORCH = next(line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
# torch first and pinned: a later install may then not replace it by another build.
INSTALLS = [[TORCH], ["transformers==4.57.6", "pillow", "numpy", "jinja2"]]


def run(command):
    """Raises RuntimeError with the command's output when it fails."""
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{finished.stdout[-4000:]}")


def older_interpreter(folder=FOLDER):
    """The path of its `python`. A build that was interrupted, or that has other versions, is removed and redone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    wanted = f"{sys.version.split()[0]} {INSTALLS}"
    python, marker = folder / "bin" / "python", folder / "complete"
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs on one machine build it once
        if not (marker.exists() and marker.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            run([sys.executable, "-m", "venv", folder])
            for packages in INSTALLS:
                run([python, "-m", "pip", "install", "--quiet", *packages])
            marker.write_text(wanted)  # last: a folder without it is not finished
    return python
