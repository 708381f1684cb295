"""Isolated processes without a launch: forked from one that has imported transformers, and never smol_hf.

A launch costs 5 to 9 seconds of CPU, a fork a few milliseconds. The first of a session launches the process to fork.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

LIBRARIES = [
    "PIL.Image", "peft", "safetensors.torch", "torch", "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto", "transformers.models.llama.modeling_llama",
    "transformers.models.siglip.modeling_siglip",
]  # fmt: skip
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(LIBRARIES)


def run_isolated(command, cwd=None, env=None, **_):
    """Do what `subprocess.run` does for `[python, script, …]` and `[python, "-c", program]`, with captured output."""
    with tempfile.TemporaryDirectory() as folder:
        process = FORKED.Process(target=work, args=(command[1:], folder, cwd or os.getcwd(), dict(env or os.environ)))
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"not finished after 300 seconds: {command}")
        printed, complained = (Path(folder, name).read_text(encoding="utf-8") for name in ("1", "2"))
    return SimpleNamespace(returncode=process.exitcode, stdout=printed, stderr=complained)


def work(words, folder, cwd, environment):
    for descriptor in (1, 2):
        os.dup2(os.open(Path(folder, str(descriptor)), os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(cwd)
    os.environ.update(environment)
    assert not any(name.split(".")[0] == "smol_hf" for name in sys.modules)
    import transformers.dynamic_module_utils as travelled

    travelled.HF_MODULES_CACHE = folder  # transformers read HF_HOME when it was imported
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
