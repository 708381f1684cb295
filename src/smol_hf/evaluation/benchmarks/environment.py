"""Isolated Python environments of the evaluation harnesses, and the package's own modules inside them.

An environment is a virtual environment in the user's cache. It finds torch, transformers and the other packages of
this interpreter, and has the harness and its pinned packages in front of them. So the harness does not change this
interpreter, and the checkpoint is evaluated with the same torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import site
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from smol_hf.evaluation.benchmarks.suite import LM_EVAL, LMMS_EVAL
from smol_hf.support.cache_folders import making

# Distribution → (its release, the packages that its benchmarks import). Their own lists hold far more, such as wandb,
# and releases of filelock and PyAV that lmms-eval 0.7.3 does not work with.
HARNESSES = {
    LMMS_EVAL: (
        "0.7.3",
        (
            "Levenshtein==0.27.5", "av==15.1.0", "evaluate==0.4.6", "filelock==3.20.0", "loguru==0.7.3",
            "openai==3.57.0", "opencv-python-headless==5.0.0.93", "pytablewriter==1.2.1", "python-dotenv==1.2.4",
            "sacrebleu==2.6.0", "tenacity==9.2.1",
        ),
    ),
    LM_EVAL: (
        "0.4.13",
        (
            "evaluate==0.4.6", "immutabledict==4.3.1", "langdetect==1.0.9", "nltk==3.10.4", "pytablewriter==1.2.1",
            "sacrebleu==2.6.0",
        ),
    ),
}  # fmt: skip


def cache_folder() -> Path:
    """Return the folder of the environments in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smol_hf" / "environments"


def site_folders() -> list[str]:
    """Return the folders of packages of this interpreter."""
    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]


def environment_name(harness: str) -> str:
    release, packages = HARNESSES[harness]
    made_of = repr((platform.python_version(), packages, site_folders()))
    return f"{harness}-{release}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def pip_commands(harness: str, python: Path) -> list[list[str]]:
    """Return the command lines that install a harness."""
    release, packages = HARNESSES[harness]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [[*pip, "--no-deps", f"{harness}=={release}"], [*pip, *packages]]


def interpreter_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def prepare(harness: str) -> Path:
    """Return the interpreter of a harness. The first call builds its environment, which needs a package registry.

    Raises:
        RuntimeError: if a package cannot be installed.
    """
    folder, name = cache_folder(), environment_name(harness)
    with making(folder, name) as unfinished:
        if unfinished is not None:
            sys.stderr.write(f"preparing {folder / name} for {harness} …\n")
            build(harness, unfinished)
    return interpreter_of(folder / name)


def build(harness: str, folder: Path) -> None:
    run_or_explain([sys.executable, "-m", "venv", str(folder)], harness)
    own = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    lines = [f"import site; site.addsitedir({each!r})\n" for each in site_folders()]
    (own / "packages_of_smol_hf.pth").write_text("".join(lines), encoding="utf-8")
    for command in pip_commands(harness, interpreter_of(folder)):
        run_or_explain(command, harness)


def run_or_explain(command: list[str], harness: str) -> None:
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if finished.returncode:
        errors = re.findall(r"^ERROR: (.+)$", finished.stdout, flags=re.MULTILINE)
        reason = errors[-1] if errors else (finished.stdout.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"the environment of {harness} cannot be built ({reason}): connect to a package registry, or name an "
            f"interpreter that has {harness} with --{harness}-python"
        )


def given(harness: str, python: str) -> Path:
    """Return the user's own interpreter.

    Raises:
        ValueError: if it does not run, or has not the harness.
    """
    release, _ = HARNESSES[harness]
    probe = f"from importlib.metadata import version; print(version({harness!r}))"
    try:
        finished = subprocess.run([python, "-c", probe], capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise ValueError(f"--{harness}-python {python} does not run: {error.strerror}") from error
    if not finished.returncode and not finished.stdout.strip():
        raise ValueError(f"--{harness}-python {python} is not an interpreter of Python: name one")
    if finished.returncode:
        raise ValueError(
            f"{python} does not have {harness}: run {python} -m pip install {harness}=={release}, or leave out "
            f"--{harness}-python"
        )
    return Path(python)


@contextmanager
def our_modules() -> Iterator[str]:
    """Yield a folder for PYTHONPATH: this package, and the entry point by which lmms-eval finds its model."""
    import smol_hf

    with TemporaryDirectory(prefix="smol_hf_benchmarks_") as folder:
        (Path(folder) / "smol_hf").symlink_to(Path(smol_hf.__file__).parent, target_is_directory=True)
        facts = Path(folder) / "smol_hf_benchmarks-0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: smol_hf_benchmarks\nVersion: 0\n")
        entry_point = "[lmms_eval.models]\nsmol_hf = smol_hf.evaluation.benchmarks.lmms_eval_model:manifest\n"
        (facts / "entry_points.txt").write_text(entry_point)
        yield folder
