"""Values of a wrong type or number in calls of the processor: one sentence that names the argument and its forms."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from modeling.builders import build_processor
from processing.chats import PROMPT, ask, picture

NAN, INFINITE = float("nan"), float("inf")
FRAMES = [picture(16, 20, seed=seed) for seed in range(3)]
NO_VIDEO = "give (for each video )?a path, encoded bytes, a list of frames, or an array"
NO_IMAGE = "give a PIL image, a path, a URL, base64, encoded bytes, or an array"
NO_ARRAY = "is not an image: give .height, width., or 1, 3 or 4 channels"
# Value → complaint, as a part of a message and as the argument `videos`.
VIDEOS = {
    "number": (5, NO_VIDEO),
    "true": (True, NO_VIDEO),
    "mapping": ({"path": "a.mp4"}, NO_VIDEO),
    "set": (set(), NO_VIDEO),
    "object": (SimpleNamespace(), NO_VIDEO),
    "generator": ((frame for frame in FRAMES), NO_VIDEO),
    "a number as an array": (np.array(5), NO_VIDEO),
    "six dimensions": (np.zeros((1, 1, 3, 16, 20, 3), np.uint8), NO_VIDEO),
    "one dimension": (np.zeros(5, np.uint8), NO_ARRAY),
    "five channels": (np.zeros((3, 16, 20, 5), np.uint8), NO_ARRAY),
    "no rows": (np.zeros((3, 0, 20, 3), np.uint8), NO_ARRAY),
    "complex": (np.zeros((3, 16, 20, 3), complex), NO_IMAGE),
    "objects": (np.zeros((3, 16, 20, 3), object), NO_IMAGE),
    "texts": (np.array(["a.mp4"]), NO_IMAGE),
    "integers": (np.zeros((3, 16, 20, 3), int), "has no known white"),
    "not a number": (np.full((3, 16, 20, 3), NAN), "have no known white"),
    "no frames": (np.zeros((0, 16, 20, 3), np.uint8), "a video has no frames: give at least one"),
    "empty text": ("", "the video '' cannot be used: it is not a path"),
    "zero byte": ("a\0.mp4", r"the video 'a\\x00.mp4' cannot be used: it is not a path"),
    "pipe": (os.devnull, "is neither a file nor a folder of frames"),
}
IMAGES = {
    "number": (5, f"an image is 5: {NO_IMAGE}"),
    "mapping": ({"path": "a.png"}, f"an image is {{'path': 'a.png'}}: {NO_IMAGE}"),
    "object": (SimpleNamespace(), f"an image is a value of type SimpleNamespace: {NO_IMAGE}"),
    "bytes": (b"no image", "the image cannot be read: Pillow does not know its format"),
    "cut off": (None, "the image cannot be read: .*truncated"),
    "complex": (np.zeros((16, 20, 3), complex), NO_IMAGE),
    "two numbers": ([1, 2], "is not an image"),
    "ragged": ([[1, 2], [3]], "inhomogeneous"),
    "sparse": (torch.zeros(2, 2).to_sparse(), "the image cannot be read: can't convert Sparse"),
    "no host": ("https://", "the image cannot be read: .*no host given"),
    "no address": ("http://[bad", "the image cannot be read: it has an invalid URL"),
    "data": ("data:image/png;base64,@@", "the image cannot be read: "),
}


def called(processor, part, **options):
    return processor.apply_chat_template(ask(part), tokenize=True, **options)


@pytest.mark.parametrize("name", VIDEOS)
def test_what_is_no_video_is_named(processor, name):
    value, complaint = VIDEOS[name]
    with pytest.raises(ValueError, match=complaint):
        called(processor, {"type": "video", "video": value})
    text = processor.apply_chat_template(ask({"type": "video"}))
    for given in ({"text": text}, {}):
        with pytest.raises(ValueError, match=complaint):
            processor(videos=value, **given)


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_no_image_is_named(processor, tmp_path, name):
    value, complaint = IMAGES[name]
    if name == "cut off":
        picture(200, 200).save(tmp_path / "a.jpg")
        value = (tmp_path / "a.jpg").read_bytes()[:-200]
    with pytest.raises(ValueError, match=complaint):
        called(processor, {"type": "image", "image": value})
    if not isinstance(value, list):  # of images
        with pytest.raises(ValueError, match=complaint):
            processor(text=PROMPT, images=value)


@pytest.mark.parametrize("empty", [[], [[]], [None], [[], None]])
@pytest.mark.parametrize("name", ["images", "videos"])
def test_nothing_is_too_little(processor, name, empty):
    with pytest.raises(ValueError, match=f"{name} is empty: give one or more"):
        processor(**{name: empty})
    text = processor.apply_chat_template(ask({"type": name[:-1]}))
    with pytest.raises(
        ValueError, match=f"the text shows 1 {name}, but 0 were given|2 lists of images .* for 1 texts"
    ):
        processor(text=text, **{name: empty})


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ("fps", "holds 'fps': give a mapping of total_num_frames"),
        ([5], "holds 5: give a mapping"),
        ({"fps": "2"}, "fps is '2': give a number above 0"),
        ({"fps": NAN}, "fps is nan: give a number above 0"),
        ({"fps": INFINITE}, "fps is inf: give a number above 0"),
        ({"fps": True}, "fps is True: give a number above 0"),
        (
            {"fps": 2, "frames_indices": [-1, 0, 1]},
            r"frames_indices is \[-1, 0, 1\]: give whole numbers of at least 0",
        ),
        ({"fps": 2, "frames_indices": ["0", "1", "2"]}, "give whole numbers"),
        ({"fps": 2, "frames_indices": [0, 0.5, 1]}, "give whole numbers"),
        ({"fps": 2, "frames_indices": np.array([[0, 1, 2]])}, "give whole numbers"),
        ({"fps": 2, "frames_indices": 3}, "frames_indices is 3: give whole numbers"),
        ({"fps": 2, "total_num_frames": "3"}, "total_num_frames is '3': give a whole number"),
        ({"fps": 2, "total_num_frames": 10**9}, "has 1000000000 times for 3 frames"),
        ({"fps": 2, "duration": NAN}, "duration is nan: give seconds, from 0 to 10,000,000,000"),
        ({"fps": 2, "duration": "9"}, "duration is '9': give seconds"),
        ({"fps": 2, "duration": 1e300}, "duration is 1e[+]300: give seconds"),
        (SimpleNamespace(times=(0, NAN, 2), duration=3), r"times is \[0, nan, 2\]: give seconds"),
        (SimpleNamespace(times="012", duration=3), "times is '012': give seconds"),
    ],
)
def test_odd_metadata_are_named(processor, metadata, complaint):
    with pytest.raises(ValueError, match=f"video_metadata.*{complaint}"):
        called(processor, {"type": "video", "video": FRAMES}, video_metadata=metadata)


def test_whole_numbers_may_be_of_any_type(processor):
    part = {"type": "video", "video": FRAMES}
    expected = called(processor, part, video_metadata={"fps": 2, "frames_indices": [0, 4, 8]})
    for numbers in ([0.0, 4.0, 8.0], np.array([0, 4, 8]), torch.tensor([0, 4, 8]), (0, np.int32(4), np.float64(8))):
        assert called(processor, part, video_metadata={"fps": np.float32(2), "frames_indices": numbers}) == expected


@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("value", ["1", NAN, INFINITE, -1, [], torch.tensor(1.0), 10**30])
def test_a_start_or_an_end_that_is_no_time_is_named(processor, name, value):
    with pytest.raises(ValueError, match=f"its {name} is .*: give seconds, from 0 to 10,000,000,000"):
        called(processor, {"type": "video", "video": FRAMES, name: value})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("fps", INFINITE, "fps inf must be a number above 0, at most 1000"),
        ("num_frames", True, "num_frames True must be a positive whole number"),
        ("allow_video_urls", "no", "allow_video_urls 'no': choose one of None, True, False"),
        ("do_sample_frames", np.zeros(2), "do_sample_frames a value of type ndarray"),
        ("do_rescale", "x", "do_rescale 'x'"),
        ("truncation", "x", "truncation 'x': choose one of True, False, longest_first"),
        ("input_data_format", "rgb", "input_data_format 'rgb'"),
        ("rescale_factor", "x", "rescale_factor 'x': give a number"),
        ("image_mean", [1, 2], r"image_mean \[1, 2\]: give a number, or one for each of three colours"),
        ("image_std", NAN, "image_std nan"),
    ],
)
def test_an_option_of_another_type_is_named(processor, name, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        called(processor, {"type": "video", "video": FRAMES}, **{name: value})


@pytest.mark.parametrize("name", ["images_kwargs", "videos_kwargs", "processor_kwargs"])
@pytest.mark.parametrize("value", [5, "fps", [1, 2]])
def test_a_group_of_options_is_a_mapping(processor, name, value):
    with pytest.raises(TypeError, match=f"{name} is .*: give a mapping of options"):
        called(processor, {"type": "video", "video": FRAMES}, **{name: value})


@pytest.mark.parametrize("conversation", [5, None, "Hi", [5], ["Hi"], [["Hi"]], {"role": "user"}, [None], b"Hi"])
@pytest.mark.parametrize("tokenize", [True, False])
def test_what_is_no_conversation_is_named(processor, conversation, tokenize):
    with pytest.raises(TypeError, match=r"a conversation is .*: give a list of messages"):
        processor.apply_chat_template(conversation, tokenize=tokenize)


def test_a_content_is_a_text_or_parts(processor):
    with pytest.raises(TypeError, match="the content of a message is 5: give a text or a list of parts"):
        processor.apply_chat_template([{"role": "user", "content": 5}])
    with pytest.raises(ValueError, match="text must be a string or a list of strings"):
        processor(text=5)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("video_fps", "2", "video_fps is '2': give a number above 0, at most 1000"),
        ("video_fps", True, "video_fps is True: give a number"),
        ("video_max_frames", 2.5, "video_max_frames is 2.5: give a whole number"),
        ("video_min_frames", "1", "video_min_frames is '1': give a whole number"),
        ("video_max_frames", None, "video_max_frames is None: give a whole number"),
    ],
)
def test_a_setting_of_another_type_is_named(name, value, complaint):
    """As a damaged processor_config.json may hold it."""
    with pytest.raises(ValueError, match=complaint):
        build_processor(**{name: value})
