"""The frame that is read is the one on screen at the chosen time, in every container and at every rate."""

import os
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from video_clips import clip, even_times, number_in, numbered

from smol_hf.data.conversation import SampleError, VideoPart
from smol_hf.data.media import videos
from smol_hf.data.media.videos import ListedVideo, load_frames
from smol_hf.processing.call_options import CallOptions
from smol_hf.processing.video_decoding import MissingReaderError, VideoError
from smol_hf.processing.video_input import as_video
from smol_hf.processing.video_reader import open_video, reader_name
from smol_hf.processing.video_sampling import VideoSampling

GAPS = np.random.default_rng(0).uniform(0.02, 2, 199)
UNEVEN = [Fraction(int(1000 * time), 1000) for time in np.cumsum([0, *GAPS])]
CLIPS = {
    "24 fps": {"times": even_times(120, 24)},
    "29.97 fps": {"times": even_times(120, Fraction(30000, 1001)), "bframes": 2},
    "60 fps": {"times": even_times(120, 60), "bframes": 2},
    "variable rate": {"times": UNEVEN},
    "one frame": {"times": [0]},
    "half a second": {"times": even_times(12, 24)},
    "ten minutes": {"times": [3 * number for number in range(200)]},
    "offset start": {"times": even_times(96, 24), "start": 5, "bframes": 2},
    "fragmented": {"times": even_times(96), "movflags": "frag_keyframe+empty_moov"},
    "key frames only": {"times": even_times(60), "gop": 1},
    "one key frame": {"times": even_times(250), "gop": 500, "bframes": 2},
    "10 bit": {"times": even_times(60), "pix_fmt": "yuv420p10le"},
    "HEVC": {"times": even_times(60), "codec": "libx265", "pix_fmt": "yuv420p10le"},
    "AV1": {"times": even_times(60), "codec": "libsvtav1"},
    "mkv": {"times": UNEVEN, "form": "matroska", "bframes": 2},
    "webm": {"times": even_times(90), "form": "webm", "codec": "libvpx-vp9"},
    "webm of VP8": {"times": even_times(90), "form": "webm", "codec": "libvpx",
                    "options": {"auto-alt-ref": "1", "lag-in-frames": "10"}},
    "ts": {"times": even_times(120), "form": "mpegts", "bframes": 2},
    "long ts": {"times": UNEVEN, "form": "mpegts"},
    "avi": {"times": even_times(90), "form": "avi", "codec": "mpeg4"},
    "avi with B-frames": {"times": even_times(90), "form": "avi", "bframes": 2},
    "gif": {"times": even_times(30, 10), "form": "gif", "codec": "gif", "pix_fmt": "rgb8", "rate": 10},
    "wmv": {"times": even_times(60), "form": "asf", "codec": "wmv2"},
    "mov": {"times": even_times(30), "form": "mov", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_the_frame_is_the_one_on_screen(name):
    times = CLIPS[name]["times"]
    video = open_video(clip(**CLIPS[name]))
    precise = 0.002 if CLIPS[name].get("form", "mp4") in ("matroska", "webm", "asf", "mpegts") else 0.0001
    assert np.allclose(video.times, [float(time) for time in times], rtol=0, atol=precise)
    last = float(times[-1] - times[-2]) if len(times) > 1 else 1 / 30
    assert video.duration == pytest.approx(float(times[-1]) + last, abs=0.04)
    for number in (1, 7, 16):
        chosen = VideoSampling(1000, number).choose(video.times, video.duration)
        assert [number_in(image) for image in video.frames(chosen)] == chosen
        assert number == 1 or (chosen[0] == 0 and chosen[-1] == len(times) - 1), "from the first to the last"


@pytest.mark.parametrize("form", ["mp4", "mov"])
@pytest.mark.parametrize("bframes", [0, 2])
def test_frames_before_an_edit_list_are_decoded_but_not_shown(form, bframes):
    """A muxer writes an edit list for negative times, as `ffmpeg -ss … -c copy` does."""
    video = open_video(clip(even_times(96, 24), form, start=-1.25, gop=48, bframes=bframes))
    assert len(video.times) == 66 and video.times[0] == 0 and video.duration == pytest.approx(2.75)
    assert [number_in(image) for image in video.frames([0, 17, 18, 65])] == [30, 47, 48, 95]


def test_thirty_seconds_are_sampled_to_the_last_one():
    video = open_video(clip(even_times(300, 10)))
    chosen = VideoSampling(1, 64).choose(video.times, video.duration)
    times = [video.times[index] for index in chosen]
    assert len(times) == 30 and times[0] == 0 and times[-1] == pytest.approx(29.9)
    assert max(after - before for before, after in zip(times, times[1:])) < 1.2


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("aspect", [None, 2, Fraction(1, 2)])
def test_rotation_and_aspect_ratio_are_applied(degrees, aspect):
    video = open_video(clip(even_times(8), codec="mjpeg", pix_fmt="yuvj420p", rotation=degrees, aspect=aspect))
    [image] = video.frames([5])
    width, height = {None: (64, 48), 2: (128, 48), Fraction(1, 2): (64, 96)}[aspect]
    assert video.size == (height, width)
    expected = np.rot90(np.asarray(Image.fromarray(numbered(5)).resize((width, height))), degrees // 90)
    assert image.size == expected.shape[1::-1]
    assert np.abs(np.asarray(image).astype(int) - expected).mean() < 8


def test_frames_as_images(tmp_path):
    for number, name in enumerate(["0009.5.png", "0012.png", "0020.25.png"]):
        Image.fromarray(numbered(number)).save(tmp_path / name)
    video = open_video(tmp_path)
    assert video.times == [0, 2.5, 10.75] and video.duration == 19
    assert [number_in(image) for image in video.frames([0, 2])] == [0, 2]
    listed = open_video([(3, Image.fromarray(numbered(7))), (1.5, str(tmp_path / "0012.png"))])
    assert listed.times == [0, 1.5] and [number_in(image) for image in listed.frames([0, 1])] == [1, 7]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "it has no frames"),
        (["frame1.png"], "name its frames by their times in seconds, such as 12.5.jpg, not 'frame1.png'"),
        (["1_0.png"], "not '1_0.png'"),
        (["12.5"], "not '12.5'"),
        (["1.png", "1.0.jpg"], "each of its frames needs another time"),
        (["nan.png"], "not 'nan.png'"),
        (["1.png"], r"1\.png is not an image that can be read"),
    ],
)
def test_bad_folders_of_frames(tmp_path, names, problem):
    for name in names:
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(SampleError, match=f"rows:1: the video {tmp_path} cannot be used: .*{problem}"):
        ListedVideo(VideoPart(path=str(tmp_path)), "rows:1").choose(VideoSampling())
    with pytest.raises(VideoError, match=f"cannot be used: .*({problem}|1.png cannot be read)"):
        list(as_video(str(tmp_path), VideoSampling(), CallOptions()).frames())


def test_a_part_of_a_video_has_its_own_times(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(even_times(240, 24)))
    part = VideoPart(path=str(path), start=2.5, end=6.5)
    chosen = ListedVideo(part, "rows:1").choose(VideoSampling(1, 64))
    assert chosen.duration == 4 and chosen.times[0] == 0 and chosen.times[-1] == pytest.approx(4 - 1 / 24)
    assert [number_in(image) for image in load_frames(part, chosen, "rows:1")] == [60, 91, 123, 155]
    beyond = VideoPart(path=str(path), start=20.0, end=30.0)
    with pytest.raises(
        SampleError, match=r"rows:1: the video .*clip.mp4 cannot be used: no frame is on screen from 20"
    ):
        ListedVideo(beyond, "rows:1").choose(VideoSampling())


def test_without_pyav_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingReaderError, match=r"^videos need PyAV, which is not installed: pip install av$"):
        open_video(b"video")
    with pytest.raises(MissingReaderError):
        ListedVideo(VideoPart(content=b"video"), "rows:1")


def test_the_reader_has_a_name():
    assert reader_name() == f"PyAV {av.__version__} (FFmpeg {av.ffmpeg_version_info})"


def test_frames_that_are_images_need_no_reader(tmp_path, monkeypatch):
    """Also the summary before a run names it."""
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(ListedVideo(VideoPart(path=str(tmp_path)), "rows:1").choose(VideoSampling()).times) == 1
    assert reader_name() == "PyAV (not installed: pip install av)"


def test_matroska_announces_the_time_of_its_end():
    video = open_video(clip(even_times(96, 24), "matroska", start=20))
    assert video.times[0] == 0 and video.duration == pytest.approx(4, abs=0.05)


def test_a_part_of_named_frames_is_counted_in_their_names(tmp_path):
    for second in range(5, 15):
        Image.new("RGB", (16, 16), (second, 0, 0)).save(tmp_path / f"{second:04}.png")
    part = VideoPart(path=str(tmp_path), start=8, end=12)
    chosen = ListedVideo(part, "rows.jsonl:1").choose(VideoSampling())
    shown = [image.getpixel((0, 0))[0] for image in load_frames(part, chosen, "rows.jsonl:1")]
    assert shown == [8, 9, 10, 11] and chosen.times == (0, 1, 2, 3) and chosen.duration == 4
    call = as_video(str(tmp_path), VideoSampling(), CallOptions(), start=8, end=12)
    assert [image.getpixel((0, 0))[0] for image in call.frames()] == shown
    assert (call.times, call.duration) == (chosen.times, chosen.duration), "a call sees what training sees"


def test_a_pipe_among_named_frames_is_refused(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "1.png")
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(SampleError, match=r"0\.png is not a file"):
        ListedVideo(VideoPart(path=str(tmp_path)), "rows.jsonl:1").choose(VideoSampling())


def test_the_limit_of_pixels_is_that_of_each_chosen_frame(tmp_path, monkeypatch):
    """Also of frames with different sizes. Frames that are not chosen do not count."""
    monkeypatch.setattr(videos, "MAXIMUM_PIXELS", 400)
    for second, size in enumerate([(20, 20), (10, 30), (40, 20)]):
        Image.new("RGB", size).save(tmp_path / f"{second}.png")
    with pytest.raises(SampleError, match="its frames are 40x20, more than 400 pixels: make it smaller"):
        ListedVideo(VideoPart(path=str(tmp_path)), "rows:1").choose(VideoSampling())
    assert len(ListedVideo(VideoPart(path=str(tmp_path), end=2), "rows:1").choose(VideoSampling()).times) == 2
    contents = tuple(path.read_bytes() for path in sorted(tmp_path.iterdir()))
    with pytest.raises(SampleError, match="the embedded video cannot be used: its frames are 40x20"):
        ListedVideo(VideoPart(frames=contents, times=(0, 1, 2)), "rows:1").choose(VideoSampling())


def test_a_damaged_frame_is_not_decoded_to_other_pixels(tmp_path):
    """As of an image: a changed byte in a small PNG would only change its colours."""
    for second in range(2):
        Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / f"{second}.png", compress_level=0)
    damaged = bytearray((tmp_path / "1.png").read_bytes())
    damaged[60] ^= 0x55
    (tmp_path / "1.png").write_bytes(bytes(damaged))
    part = VideoPart(path=str(tmp_path))
    chosen = ListedVideo(part, "rows:1").choose(VideoSampling())
    with pytest.raises(SampleError, match=r"rows:1: the video .* cannot be used: .*1\.png is damaged"):
        list(load_frames(part, chosen, "rows:1"))


def test_a_frame_with_several_frames_is_refused(tmp_path):
    """Which of them is meant is unknown, as of an image."""
    images = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    images[0].save(tmp_path / "0.gif", save_all=True, append_images=images[1:])
    with pytest.raises(SampleError, match=r"0\.gif has several frames or pages"):
        ListedVideo(VideoPart(path=str(tmp_path)), "rows:1").choose(VideoSampling())
    with pytest.raises(VideoError, match=r"0\.gif cannot be read: the image has 2 frames or pages"):
        list(as_video(str(tmp_path), VideoSampling(), CallOptions()).frames())


@pytest.mark.parametrize("fps", [0, -1, float("inf"), float("nan"), 1e308])
def test_a_rate_that_no_video_has_is_refused(fps):
    with pytest.raises(ValueError, match="give a number above 0, at most 1000"):
        VideoSampling(fps)


@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("value", [-3, float("nan"), float("inf"), 10**30, "2", True, [1]])
def test_a_part_that_has_no_times_is_refused(name, value):
    with pytest.raises(VideoError, match=f"its {name} is .*: give seconds, from 0 to 10,000,000,000"):
        VideoSampling().choose([0.0, 1.0], 2.0, **{name: value})
    part = VideoPart(frames=(b"",), times=(0.0,), **{name: value})
    with pytest.raises(SampleError, match=f"rows:1: the video .* cannot be used: its {name} is"):
        ListedVideo(part, "rows:1").choose(VideoSampling())


@pytest.mark.parametrize(
    ("start", "end", "part"), [(20, None, "from 20 s"), (12, 9, "from 12 s to 9 s"), (0, 5, "from 0 s to 5 s")]
)
def test_a_part_without_a_frame_is_named_in_the_users_times(tmp_path, start, end, part):
    for second in range(5, 15):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{second}.png")
    with pytest.raises(SampleError, match=f"no frame is on screen {part}; the video ends at 15 s"):
        ListedVideo(VideoPart(path=str(tmp_path), start=start, end=end), "rows:1").choose(VideoSampling())
