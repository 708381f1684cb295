"""Bad and odd videos: each is left out with its name and the reason, or decoded correctly."""

import io

import numpy as np
import pytest
from PIL import Image
from video_clips import clip, even_times, number_in, sound

from smol_hf.data.conversation import SampleError, VideoPart
from smol_hf.data.media import videos
from smol_hf.data.media.videos import ListedVideo, load_frames
from smol_hf.processing.video_sampling import VideoSampling

GOOD = {"times": even_times(240, 24), "gop": 48, "bframes": 2, "options": {"crf": "10"}}
NO_VIDEO = "it is damaged, or not MP4, MOV, MKV"


def frames(content, **part):
    video = VideoPart(content=content, **part)
    chosen = ListedVideo(video, "rows.jsonl:7").choose(VideoSampling(2, 16))
    return chosen, [number_in(image) for image in load_frames(video, chosen, "rows.jsonl:7")]


@pytest.fixture(scope="module")
def good():
    return clip(**GOOD)


def garbled_header(content):
    garbled, start = bytearray(content), content.rindex(b"moov")
    places = np.random.default_rng(3).integers(start + 4, len(content), 200)
    for place in places:
        garbled[place] ^= 0x5A
    return bytes(garbled)


def huge_gif():
    stream = io.BytesIO()
    Image.new("L", (7680, 4320)).save(stream, "GIF")
    return stream.getvalue()


def without_times(packet):
    packet.pts = packet.dts = None
    return packet


BAD = {
    "empty": (lambda good: b"", NO_VIDEO),
    "text": (lambda good: b"A text, and no video. " * 50, NO_VIDEO),
    "html": (lambda good: b"<!DOCTYPE html><html><body>404 Not Found</body></html>", NO_VIDEO),
    "playlist": (lambda good: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", NO_VIDEO),
    "list of files": (lambda good: b"ffconcat version 1.0\nfile '/etc/passwd'\n", NO_VIDEO),
    "image": (lambda good: b"\x89PNG\r\n\x1a\n" + bytes(100), NO_VIDEO),
    "header cut off": (lambda good: good[: good.rindex(b"moov") + 20], "it has no video|it is damaged"),
    "header garbled": (garbled_header, "it has no video|it is damaged"),
    "sound only": (lambda good: sound(), "it has sound, but no video"),
    "sound with a cover": (lambda good: sound(cover=True), "it has sound, but no video"),
    "mp3 with a cover": (lambda good: sound("mp3", "libmp3lame", cover=True), NO_VIDEO),
    "no times": (lambda good: clip(even_times(30), "h264"), NO_VIDEO),
    "no frames": (lambda good: clip(even_times(8), "avi", "mpeg4", edit=lambda packet: None), "damaged|no frames"),
    "cut off": (
        lambda good: clip(**GOOD, movflags="faststart")[:-3000],
        r"it is damaged: its header announces 10 s, but it ends at \d",
    ),
    "mkv cut off": (lambda good: clip(**{**GOOD, "form": "matroska"})[:-3000], "announces 10 s, but it ends at"),
    "avi cut off": (lambda good: clip(**{**GOOD, "form": "avi", "rate": 24})[:-6000], "it is damaged"),
    "8K": (lambda good: huge_gif(), "its frames are 7680x4320, more than 10,000,000 pixels"),
    "10 hours": (lambda good: clip([0, 12_000, 24_000]), "it has 10.0 hours, more than 4: cut it into parts"),
    "rotated by 45 degrees": (lambda good: clip(even_times(8), rotation=45), "it is rotated by 45 degrees"),
    "HDR of PQ": (lambda good: clip(even_times(8), color_trc=16), r"it is HDR \(PQ\): convert it to SDR"),
    "HDR of HLG": (lambda good: clip(even_times(8), color_trc=18), r"it is HDR \(HLG\): convert it to SDR"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_is_left_out_with_its_name_and_the_reason(name, good):
    make, reason = BAD[name]
    with pytest.raises(SampleError, match=f"^rows.jsonl:7: the video the embedded video cannot be used: .*({reason})"):
        frames(make(good))


def test_flipped_bytes_never_change_a_frame_silently(good):
    """Decoded frames are right: a damaged clip is left out instead."""
    end, left_out = good.rindex(b"moov"), 0
    for seed in range(40):
        damaged = bytearray(good)
        generator = np.random.default_rng(seed)
        for place in generator.integers(100, end, 12):
            damaged[place] ^= int(generator.integers(1, 256))
        try:
            _, numbers = frames(bytes(damaged))
        except SampleError as error:
            assert "damaged" in error.problem
            left_out += 1
        else:
            assert numbers == frames(good)[1]
    assert left_out > 20


def test_a_wrong_duration_in_the_header_changes_no_time(good):
    wrong = bytearray(good)
    for box in (b"mvhd", b"mdhd"):
        at = good.index(box) + 20  # of the duration
        wrong[at : at + 4] = (3 * int.from_bytes(good[at : at + 4], "big")).to_bytes(4, "big")
    assert frames(bytes(wrong)) == frames(good)


def test_limits_of_files(tmp_path, monkeypatch, good):
    path = tmp_path / "a.mp4"
    path.write_bytes(good)
    monkeypatch.setattr(videos, "MAXIMUM_BYTES", 1000)
    with pytest.raises(SampleError, match=rf"a.mp4 cannot be used: it has {len(good):,} bytes, more than 1,000"):
        ListedVideo(VideoPart(path=str(path)), "rows:1")
    with pytest.raises(SampleError, match="is neither a file nor a folder of frames"):
        ListedVideo(VideoPart(path="/dev/null"), "rows:1")
    with pytest.raises(SampleError, match=r"missing\.mp4 cannot be used: it does not exist"):
        ListedVideo(VideoPart(path=str(tmp_path / "missing.mp4")), "rows:1")


def test_a_file_that_changes_after_it_was_measured_is_left_out(tmp_path, good):
    path = tmp_path / "a.mp4"
    path.write_bytes(good)
    part = VideoPart(path=str(path))
    chosen = ListedVideo(part, "rows:1").choose(VideoSampling(2, 16))
    path.write_bytes(clip(even_times(100, 25)))
    with pytest.raises(SampleError, match=r"it is damaged: frame \d+ of 16 cannot be decoded"):
        list(load_frames(part, chosen, "rows:1"))
