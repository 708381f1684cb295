"""The output folder of a run: its lock, and errors of the machine in words.

Each message names the newest checkpoint.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import BaseFileLock, FileLock, Timeout

from smol_hf.support.atomic import atomic_file
from smol_hf.training.checkpoint.checkpoints import INCOMPLETE, newest_complete
from smol_hf.training.checkpoint.interruption import RESUME, Interrupted, lost_process
from smol_hf.training.log.processes import in_main_process

LOCK, OWNER = ".run.lock", ".run.json"
FULL_BELOW = 1 << 20  # bytes that are free on a disk that counts as full
SIGNAL_SECONDS = 1.0
# Each machine sees a new file by then: those of NFS remember missing files for half a minute.
VISIBLE_SECONDS = 60.0
CAUSES = {
    errno.ENOSPC: "the disk of {path} is full: free space, or choose another output_dir",
    errno.EDQUOT: "the disk quota of {path} is used up: free space, or choose another output_dir",
    errno.EROFS: "{path} is on a read-only disk: choose another output_dir",
    errno.EACCES: "{path} cannot be written or read (permission denied): change its permissions, or choose another",
    errno.EPERM: "{path} cannot be written or read (not permitted): change its permissions, or choose another",
    errno.ENOTDIR: "{path} cannot be a folder because a part of its path is a file: choose another one",
    errno.ENAMETOOLONG: "the name {path} is too long: choose a shorter one",
    errno.EFBIG: "a file in {path} is larger than its file system or a limit allows: raise the limit (ulimit -f)",
    errno.ENOLCK: "the file system of {path} has no locks: choose an output_dir on another one",
    errno.EIO: "the disk of {path} reports an input/output error: check the disk",
    errno.EMFILE: "the process has too many open files: raise the limit (ulimit -n)",
    errno.ENOMEM: "the machine is out of memory",
}
LESS_MEMORY = "lower per_device_train_batch_size or the length of rows, or set gradient_checkpointing: true"


class RunError(RuntimeError):
    """The machine ended the run (disk, memory, a killed process, another run); the message says what is safe."""


class OutOfMemoryError(RunError):
    """The memory of the GPU or the machine is too small for the run. `report` returns an estimate of its step."""

    report: Callable[[], str] | None = None


@contextmanager
def run_folder(output_dir: Path) -> Iterator[None]:
    """Lock the output folder, and explain errors of the machine with the newest safe checkpoint.

    Raises:
        OutOfMemoryError: for too little memory.
        RunError: if another run uses the folder; for a full disk, missing permissions, a killed data worker, or a lost
            process.
        Interrupted: for a signal.
    """
    try:
        with locked(output_dir):
            yield
    except KeyboardInterrupt as error:
        if str(error):
            raise
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        safe = what_is_safe(output_dir)
        raise Interrupted(number, f"{signal.Signals(number).name} stopped the run: {safe}") from error
    except BaseException as error:  # the tokenizers library raises plain Exceptions
        known = error_of_worker(error)
        out_of_memory = memory_cause(known) or memory_cause(known.__cause__)
        cause = out_of_memory or cause_of(known, output_dir) or cause_of(known.__cause__, output_dir)
        if cause is None:
            raise
        if PartialState().is_main_process:
            shutil.rmtree(output_dir / INCOMPLETE, ignore_errors=True)
        safe = what_is_safe(output_dir)
        kind = OutOfMemoryError if out_of_memory else RunError
        raise kind(f"{cause}. {safe[0].upper()}{safe[1:]}") from error


@contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Hold the lock of the folder in the main process. The operating system releases the lock of a killed process.

    All processes enter together. Raises RunError in each of them if another run has the lock, or if they do not share
    the folder.
    """
    with ExitStack() as held:
        if in_main_process(hold, output_dir, held):
            refuse_separate_folders(output_dir)
        yield


def hold(output_dir: Path, held: ExitStack) -> bool:
    """Make the folder, and hold its lock until `held` closes. Returns False for a file, which the run reports itself.

    Raises RunError if another run has the lock.
    """
    if output_dir.exists() and not output_dir.is_dir():
        return False
    made = [each for each in (output_dir, *output_dir.parents) if not each.exists()]
    output_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output_dir / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{output_dir} is in use by another run ({owner_of(output_dir)}): wait for it, stop it, or choose another "
            "output_dir"
        ) from None
    held.callback(release, lock, output_dir, made)
    owner = {"process": os.getpid(), "host": socket.gethostname()}
    with atomic_file(output_dir / OWNER) as path:
        path.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    return True


def release(lock: BaseFileLock, output_dir: Path, made: list[Path]) -> None:
    """Release the lock, and remove those of the `made` folders that are empty."""
    (output_dir / OWNER).unlink(missing_ok=True)
    (output_dir / LOCK).unlink(missing_ok=True)  # processes that opened it before open it again
    lock.release()
    for folder in made:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def refuse_separate_folders(output_dir: Path) -> None:
    """Raise RunError if a process does not see the files of the main process: it would write parts of checkpoints."""
    state, host = PartialState(), socket.gethostname()
    if state.num_processes == 1:
        return
    name, main_host = in_main_process(make_mark, output_dir)
    mark = output_dir / name
    deadline = time.monotonic() + (0.0 if host == main_host else VISIBLE_SECONDS)
    while not (seen := mark.is_file()) and time.monotonic() < deadline:
        time.sleep(0.5)
    others = gather_object([None if seen else f"process {state.process_index} on {host} ({output_dir.resolve()})"])
    if state.is_main_process:
        mark.unlink()
    if blind := [each for each in others if each is not None]:
        more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
        raise RunError(
            f"output_dir {output_dir} is not the same folder for all processes: {blind[0]}{more} cannot see the files "
            f"of process 0 on {main_host}. Set output_dir to a folder on a file system that all machines share"
        )


def make_mark(output_dir: Path) -> tuple[str, str]:
    """Write a file with a new name. Returns its name and that of this machine."""
    name = f".seen_{uuid.uuid4().hex}"
    (output_dir / name).touch()
    return name, socket.gethostname()


def owner_of(output_dir: Path) -> str:
    """Return the process that holds the lock, in words."""
    try:
        owner = json.loads((output_dir / OWNER).read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just starting, or ending
        return "its process is unknown"


def what_is_safe(output_dir: Path) -> str:
    """Return a sentence about the newest complete checkpoint of the folder."""
    if (newest := newest_complete(output_dir)) is not None:
        return f"the newest checkpoint, {newest}, is safe: {RESUME}"
    return f"no checkpoint was saved in {output_dir}"


def memory_cause(error: BaseException | None) -> str | None:
    """Return a lack of memory in words; None for another kind of error."""
    text = str(error)
    asked = re.search(r"tried to allocate ([\d.]+ \w+)", text, re.IGNORECASE)
    size = f" (it tried to allocate {asked[1]})" if asked else ""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text:
        return f"the GPU is out of memory{size}: {LESS_MEMORY}"
    no_space = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or no_space or "can't allocate memory" in text or "bad_alloc" in text:
        return f"the machine is out of memory{size}: {LESS_MEMORY}"
    return None


def cause_of(error: BaseException | None, output_dir: Path) -> str | None:
    """Return the failure of the machine in words; None for another kind of error."""
    text = str(error)
    if "DataLoader worker" in text:
        died = text.splitlines()[0].rstrip(". ")
        return f"a data worker process died ({died}): often for lack of memory, so lower dataloader_num_workers"
    if lost := lost_process(error):
        return f"this process lost another process of the run ({lost}): see the messages of the others"
    of_rust = re.search(r"os error (\d+)", text)
    number = error.errno if isinstance(error, OSError) else int(of_rust[1]) if of_rust else None
    if number in CAUSES:
        named = (error.filename2 or error.filename) if isinstance(error, OSError) else None
        return CAUSES[number].format(path=named or output_dir)
    if "inline_container" in text or "iostream error" in text:  # of torch.save, which does not tell the reason
        if shutil.disk_usage(output_dir).free < FULL_BELOW:
            return CAUSES[errno.ENOSPC].format(path=output_dir)
        return f"PyTorch cannot write a file in {output_dir}: check its disk, its quota and the limit of file sizes"
    return None


def error_of_worker(error: BaseException) -> BaseException:
    """Return torch's error about a dead worker, which may come a moment after its pipe broke."""
    try:  # torch raises in a signal handler, at any line
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not isinstance(error, (ConnectionError, EOFError)) or not any("torch" in file for file in files):
            return error
        time.sleep(SIGNAL_SECONDS)
    except RuntimeError as of_torch:
        return of_torch
    return RuntimeError(f"DataLoader worker closed its pipe: {type(error).__name__}")
