"""Chosen frames of videos: smol_hf's reader beside transformers' `load_video(backend="pyav")`, and memory of a worker.

    python benchmarks/video.py [--rounds 5] [--folder clips]

Clips are made by x264 with its usual key frames (every 250 frames) and B-frames: 10 minutes of 320 · 180 pixels at 24
frames per second, and 10 seconds of 1280 · 720. Both sides give the same 32 frames of a clip. Times are CPU seconds of
all threads of this process, and the sides take turns in each round.

    read    from a file to RGB frames: list the times, choose, decode
    tiles   the same, and a tile of 512 · 512 pixels of each frame, as a sample needs it

Memory is the growth of the peak of a forked process: our worker makes a tile of each frame as it is decoded; the other
side keeps the frames, as `load_video` does. The clip of 3840 · 2160 pixels gives 30 frames, the long one 64.

The last line is JSON: samples/s of each side, the ratios, and the memory in MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from options import positive
from PIL import Image
from transformers.video_utils import load_video

from smol_hf.processing.image_tiling import ImageTiler
from smol_hf.processing.video_reader import open_video

TILER = ImageTiler(512, 512, do_image_splitting=False)
FRAMES = 32
CLIPS = {  # width, height, frames, preset
    "ten_minutes_180p": (320, 180, 14_400, "veryfast"),
    "ten_seconds_720p": (1280, 720, 240, "veryfast"),
    "4k": (3840, 2160, 45, "ultrafast"),
}


def write_clip(path: Path, width: int, height: int, frames: int, preset: str) -> None:
    """Write a clip of a camera that moves over a photograph-like image."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((2 * width, 2 * height), Image.Resampling.BICUBIC))
    scene = (scene.astype(np.int16) + random.integers(-6, 7, scene.shape)).clip(0, 255).astype(np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": preset, "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            x, y = int(width / 2 * (1 + np.sin(number / 40))), int(height / 2 * (1 + np.cos(number / 60)))
            pixels = np.ascontiguousarray(scene[y : y + height, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))


def chosen(total: int, number: int) -> list[int]:
    return [round(each) for each in np.linspace(0, total - 1, number)]


def ours(path: Path, number: int):
    video = open_video(str(path))
    return video.frames(chosen(len(video.times), number))


def theirs(path: Path, number: int):
    frames, _ = load_video(
        str(path), backend="pyav", sample_indices_fn=lambda metadata: chosen(metadata.total_num_frames, number)
    )
    return frames


def read_ours(path: Path, number: int) -> None:
    for _ in ours(path, number):
        continue


def tiles_ours(path: Path, number: int) -> np.ndarray:
    return np.concatenate([TILER.tiles(image) for image in ours(path, number)])


def tiles_theirs(path: Path, number: int) -> np.ndarray:
    return np.concatenate([TILER.tiles(Image.fromarray(frame)) for frame in theirs(path, number)])


def cpu_seconds(function: Callable, *arguments) -> float:
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def apart(function: Callable, *arguments) -> float:
    """Call a function in a forked process. Returns the growth of its peak memory in MB."""
    context = get_context("fork")
    queue = context.SimpleQueue()

    def measured() -> None:
        before = status("VmRSS")
        function(*arguments)
        queue.put((status("VmHWM") - before) / 1000)

    process = context.Process(target=measured)
    process.start()
    process.join()
    return queue.get()


def status(name: str) -> int:
    """Return a size of this process in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def compare(path: Path, rounds: int) -> dict[str, float]:
    assert np.array_equal(tiles_ours(path, FRAMES), tiles_theirs(path, FRAMES))
    pairs = {"read": (read_ours, theirs), "tiles": (tiles_ours, tiles_theirs)}
    figures: dict[str, float] = {}
    for name, (mine, peer) in pairs.items():
        seconds = [(cpu_seconds(mine, path, FRAMES), cpu_seconds(peer, path, FRAMES)) for _ in range(rounds)]
        figures[f"{name}_ours_per_second"] = round(1 / statistics.median(each for each, _ in seconds), 2)
        figures[f"{name}_theirs_per_second"] = round(1 / statistics.median(each for _, each in seconds), 2)
        figures[f"{name}_ratio"] = round(statistics.median(peer / mine for mine, peer in seconds), 2)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--folder", help="folder in which the clips are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {name: folder / f"{name}.mp4" for name in CLIPS}
        for name, path in paths.items():
            if not path.exists():
                apart(write_clip, path, *CLIPS[name])
        figures: dict[str, object] = {"frames": FRAMES}
        for name, number in (("4k", 30), ("ten_minutes_180p", 64)):
            worker, whole = apart(tiles_ours, paths[name], number), apart(theirs, paths[name], number)
            sizes = {"frames": number, "worker": round(worker), "whole_frames": round(whole)}
            figures[f"memory_{name}"] = {**sizes, "share": round(worker / whole, 3)}
        # After the memory, because forked processes would use what this process has freed.
        for name in ("ten_minutes_180p", "ten_seconds_720p"):
            figures[name] = compare(paths[name], arguments.rounds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
