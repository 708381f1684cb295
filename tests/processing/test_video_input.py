"""Every form in which a caller gives a video: the same frames, times and pixels."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from modeling.builders import build_processor
from PIL import Image
from processing.chats import PROMPT, ask, picture
from servers import Web, serve
from transformers.dynamic_module_utils import get_imports
from transformers.video_utils import VideoMetadata
from video_clips import clip, even_times, number_in

from smol_hf.data.conversation import Conversation, Message, TextPart, VideoPart
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.processing import processing_smol_hf
from smol_hf.processing.video_sampling import FrameTimes

FRAMES = [picture(40, 64, seed=seed) for seed in range(4)]
ARRAY = np.stack([np.asarray(frame) for frame in FRAMES])
INTRODUCTION = "series of {} frames from a {} [H:MM:SS] video.\n"


@pytest.fixture(scope="module")
def content():
    """Two and a half seconds at 24 frames per second."""
    return clip(even_times(60, 24))


@pytest.fixture(scope="module")
def path(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    path.write_bytes(content)
    return path


def called(processor, part, **options):
    """(text, tiles) of a conversation with this part."""
    inputs = processor.apply_chat_template(
        ask({"type": "video", **part} if isinstance(part, dict) else {"type": "video", "video": part}),
        tokenize=True, return_dict=True, return_tensors="pt", **options,
    )  # fmt: skip
    return processor.tokenizer.decode(inputs["input_ids"][0]), inputs["pixel_values"][0]


def stamps(text):
    return [each.partition(":<")[0] for each in text.split("Frame from ")[1:]]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_sampled_by_the_settings(processor, path, content):
    text, tiles = called(processor, path)
    assert INTRODUCTION.format("two", "0:00:02") in text and stamps(text) == ["00:00", "00:02"]
    for part in ({"path": str(path)}, {"url": f"file://{path}"}, {"video": content}, {"video": bytearray(content)}):
        same, same_tiles = called(processor, part)
        assert same == text and torch.equal(same_tiles, tiles)
    prompt = processor.apply_chat_template(ask({"type": "video"}))
    for videos in (path, [str(path)], [[content]]):
        batch = processor(text=prompt, videos=videos, return_tensors="pt")
        assert processor.tokenizer.decode(batch["input_ids"][0]) == text
        assert torch.equal(batch["pixel_values"][0], tiles)


def test_options_of_a_call_choose_the_frames(processor, path):
    saved = build_processor(video_fps=2.0, video_max_frames=3, video_min_frames=2)
    assert len(called(saved, path)[1]) == 3
    for options in ({"fps": 4.0}, {"videos_kwargs": {"fps": 4.0}}, {"processor_kwargs": {"fps": 4.0}}):
        assert len(called(processor, path, **options)[1]) == 10
    assert len(called(processor, path, fps=24, num_frames=7)[1]) == 7
    assert len(called(saved, path, num_frames=1)[1]) == 1
    assert len(called(processor, path, do_sample_frames=False)[1]) == 60
    text, _ = called(processor, {"path": str(path), "start": 1.0, "end": 2.0}, fps=3)
    assert INTRODUCTION.format("three", "0:00:01") in text and stamps(text) == ["00:00"] * 3


def test_the_frames_are_those_on_screen_at_their_times(path):
    _, tiles = called(build_processor(tile_size=48), path, fps=3)
    seen = [number_in(Image.fromarray(tile.permute(1, 2, 0).numpy())) for tile in tiles]
    assert seen == [0, 8, 16, 25, 33, 42, 50, 59]


def test_a_url_is_opened_on_request_only(processor, content):
    web = Web({"/clip.mp4": content})
    with serve(web) as place:
        with pytest.raises(ValueError, match="cannot be used: it is a URL: download it, or set allow_video_urls"):
            called(processor, {"url": f"{place}/clip.mp4"})
        assert not web.requests
        assert len(called(processor, {"url": f"{place}/clip.mp4"}, allow_video_urls=True)[1]) == 2
        with pytest.raises(ValueError, match="cannot be used: HTTP Error 404"):
            called(processor, f"{place}/gone.mp4", allow_video_urls=True)


# -- frames in memory -------------------------------------------------------------------------------------------------

METADATA = {"fps": 24.0, "frames_indices": [0, 40, 80, 120], "duration": 9.5}
FORMS = {
    "images": FRAMES,
    "tuple": tuple(FRAMES),
    "arrays": list(ARRAY),
    "array": ARRAY,
    "tensor": torch.from_numpy(ARRAY).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("name", FORMS)
def test_frames_are_kept_with_the_times_that_are_given(processor, name):
    frames = FORMS[name]
    expected, tiles = called(processor, FRAMES, video_metadata=METADATA)
    assert INTRODUCTION.format("four", "0:00:09") in expected
    assert stamps(expected) == ["00:00", "00:01", "00:03", "00:05"]
    assert np.array_equal(tiles, np.concatenate([processor.frame_tiler.tiles(frame) for frame in FRAMES]))
    theirs = VideoMetadata(total_num_frames=228, **METADATA)
    times = FrameTimes((0.0, 40 / 24, 80 / 24, 5.0), 9.5)
    for value, options in (
        (frames, {"video_metadata": METADATA}), (frames, {"video_metadata": [[theirs]]}), ((frames, METADATA), {}),
        ((frames, theirs), {}), ((frames, times), {}), (frames, {"videos_kwargs": {"video_metadata": [METADATA]}}),
    ):  # fmt: skip
        text, same = called(processor, value, **options)
        assert text == expected and torch.equal(same, tiles)
        prompt = processor.apply_chat_template(ask({"type": "video"}))
        batch = processor(text=prompt, videos=value, return_tensors="pt", **options)
        assert processor.tokenizer.decode(batch["input_ids"][0]) == text
        assert torch.equal(batch["pixel_values"][0], tiles)


def test_frames_without_times_count_as_chosen_at_the_processors_rate(processor):
    text, _ = called(processor, FRAMES)
    assert INTRODUCTION.format("four", "0:00:03") in text and stamps(text) == ["00:00", "00:01", "00:02", "00:03"]
    assert stamps(called(processor, ARRAY, fps=0.1)[0]) == ["00:00", "00:10", "00:20", "00:30"]
    assert stamps(called(processor, ARRAY, video_metadata={"fps": 1 / 60})[0])[1:] == ["01:00", "02:00", "03:00"]
    assert stamps(called(processor, FRAMES[0])[0]) == ["00:00"]
    assert len(called(processor, FRAMES * 20)[1]) == 80, "more than video_max_frames, which the caller has chosen"


def test_frames_are_sampled_on_request(processor):
    metadata = {"fps": 1.0, "total_num_frames": 4}
    text, tiles = called(processor, FRAMES, video_metadata=metadata, do_sample_frames=True, num_frames=2)
    assert stamps(text) == ["00:00", "00:03"]
    assert np.array_equal(tiles[1:], processor.frame_tiler.tiles(FRAMES[3]))
    assert stamps(called(processor, {"video": (FRAMES, metadata), "start": 2})[0]) == ["00:00", "00:01"]


def test_all_frames_of_a_part_are_kept_on_request(processor, path):
    part = {"path": str(path), "start": 1.0, "end": 2.0}
    text, tiles = called(processor, part, do_sample_frames=False)
    assert INTRODUCTION.format("twenty-four", "0:00:01") in text and len(tiles) == 24
    assert len(called(processor, {"path": str(path), "start": 2.0}, do_sample_frames=False)[1]) == 12
    metadata = {"fps": 2.0}
    for options in ({}, {"do_sample_frames": False}):
        text, tiles = called(processor, {"video": (FRAMES, metadata), "start": 0.5}, **options)
        assert stamps(text) == ["00:00", "00:00", "00:01"] and len(tiles) == 3
    assert len(called(processor, {"video": (FRAMES, metadata), "start": 0.5}, do_sample_frames=True)[1]) == 2


@pytest.mark.parametrize("part", [{"start": 1}, {"end": 2.0}])
def test_a_text_with_a_part_of_a_video_is_refused(processor, path, part):
    """It would show the whole video."""
    messages = ask({"type": "video", "path": str(path), **part})
    with pytest.raises(ValueError, match=r"a video has a start or an end, .* set tokenize=True"):
        processor.apply_chat_template(messages)


def test_a_frame_is_an_unsplit_image(processor):
    unsplit = build_processor(do_image_splitting=False)
    _, tiles = called(processor, FRAMES)
    _, larger = called(processor, FRAMES, videos_kwargs={"size": {"longest_edge": unsplit.longest_edge}})
    assert np.array_equal(larger, unsplit.tiles(FRAMES)) and not np.array_equal(larger, tiles)
    assert np.array_equal(build_processor(video_frame_size=64).frame_tiler.tiles(FRAMES[0]), larger[:1])


def test_videos_and_images_of_several_prompts_stay_in_order(processor):
    texts = ["<video>and<image>", "nothing", "<image><video><video>"]
    image = picture(20, 20, seed=9)
    videos = [FRAMES[:1], FRAMES[1:3], FRAMES[3:]]
    batch = processor(text=texts, images=[image, FRAMES[0]], videos=videos, return_tensors="np")
    images_of, videos_of = ([image], None, [FRAMES[0]]), (videos[:1], None, videos[1:])
    for row, (prompt, images, given) in enumerate(zip(texts, images_of, videos_of)):
        alone = processor(text=prompt, images=images, videos=given, return_tensors="np")
        real = batch["attention_mask"][row].astype(bool)
        assert np.array_equal(batch["input_ids"][row][real], alone["input_ids"][0])
        if given:
            number = len(alone["pixel_values"][0])
            assert np.array_equal(batch["pixel_values"][row][:number], alone["pixel_values"][0])
    alone = processor(videos=[FRAMES, FRAMES[:1]])
    assert alone["pixel_values"].shape[:2] == (2, 4)
    assert alone["pixel_attention_mask"][1].any((1, 2)).tolist() == [True, False, False, False]


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "options", "complaint"),
    [
        ({"path": "gone.mp4"}, {}, "the video gone.mp4 cannot be used: it does not exist"),
        ({"video": b"<html>"}, {}, "the video in memory cannot be used: it"),
        ({}, {}, "has 0 videos instead of one"), ({"video": FRAMES, "url": "x"}, {}, "has 2 videos instead of one"),
        ({"video": FRAMES, "max_pixels": 9}, {}, "the key 'max_pixels', which is not read"),
        ({"video": []}, {}, "a video has no frames"), ({"video": ARRAY[:0]}, {}, "a video has no frames"),
        ({"video": FRAMES * 250}, {}, "a video has 1000 frames, more than 999"),
        ({"video": FRAMES}, {"do_sample_frames": True}, "needs the times of the frames"),
        ({"video": FRAMES, "start": 9}, {}, "no frame is on screen from 9 s"),
        ({"video": FRAMES}, {"video_metadata": {"frames_indices": [0, 1, 2, 3]}}, "frames_indices, but no fps"),
        ({"video": FRAMES}, {"video_metadata": {"fps": 2, "frames_indices": [0]}}, "has 1 times for 4 frames"),
        ({"video": FRAMES}, {"video_metadata": {"fps": 2, "frames_indices": [3, 2, 1, 0]}}, "not in order"),
        ({"video": FRAMES}, {"video_metadata": {"fps": 0}}, "fps is 0"),
        ({"video": FRAMES}, {"video_metadata": {"rate": 2}}, "unknown key 'rate'"),
        ({"video": FRAMES}, {"video_metadata": [None, None]}, "has 2 entries for 1 videos"),
        ({"video": (FRAMES, METADATA)}, {"video_metadata": METADATA}, "given twice"),
        ({"video": b""}, {"video_metadata": METADATA}, "a file with its own times"),
        ({"video": FRAMES}, {"num_frames": 0}, "num_frames 0 must be a positive whole number"),
        ({"video": FRAMES}, {"fps": "2"}, "fps '2' must be a number above 0"),
        ({"video": FRAMES}, {"return_metadata": True}, "return_metadata is not supported"),
        ({"video": FRAMES}, {"videos_kwargs": {"fps": 1}, "fps": 2}, "fps is given twice"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(processor, part, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        called(processor, part, **options)


def test_a_number_of_videos_that_does_not_fit_is_an_error(processor):
    with pytest.raises(ValueError, match="the text shows 0 videos, but 1 were given"):
        processor(text=PROMPT, images=picture(), videos=FRAMES)
    with pytest.raises(ValueError, match="the text shows 1 videos, but 0 were given"):
        processor.encode_text(ask({"type": "video"}), [])
    with pytest.raises(ValueError, match="without a text have no order"):
        processor(images=picture(), videos=FRAMES)


# -- an environment without a video library ---------------------------------------------------------------------------


def test_without_pyav_a_file_is_one_clear_error(processor, path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"^videos need PyAV, which is not installed: pip install av$"):
        called(processor, path)
    assert len(called(processor, FRAMES)[1]) == 4
    assert processor(text=PROMPT, images=picture())


def test_transformers_asks_a_stranger_for_no_video_library():
    files = Path(processing_smol_hf.__file__).parent.glob("*.py")
    asked = {name for file in files for name in get_imports(file)} - sys.stdlib_module_names
    assert asked == {"PIL", "numpy", "torch", "transformers"}


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["smolvlm", "smolvlm2_training"])
@pytest.mark.parametrize("part", [{}, {"start": 0.5}, {"start": 0.25, "end": 2.0}, {"end": 1.0}])
def test_a_call_sees_what_training_sees(path, style, part):
    processor = build_processor(video_style=style, video_fps=2.5)
    parts = (VideoPart(path=str(path), **part), TextPart("What is it?"))
    sample = Conversation("row", (Message("user", parts), Message("assistant", (TextPart("A clip."),))))
    work = SampleWork(processor, 2000, [None])
    measured = work.prepare(0, "row", sample)
    prompt = next(index for index, label in enumerate(measured.labels) if label >= 0)
    inputs = processor.apply_chat_template(
        ask({"type": "video", "path": str(path), **part}),
        tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    assert inputs["input_ids"][0].tolist() == measured.input_ids[:prompt]
    assert torch.equal(inputs["pixel_values"][0], work.encode(0, measured).tiles)
