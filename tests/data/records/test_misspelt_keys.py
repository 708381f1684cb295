"""Keys of images and videos that are misspelt, or at a place where nothing reads them."""

import pytest
from records import PLACE, fault_of

from smol_hf.data.conversation import SampleError
from smol_hf.data.records import adapt
from smol_hf.text.preference_records import preference_of

YES = {"role": "assistant", "content": "Yes."}


def asked(content, turn=(), **more):
    return {"messages": [{"role": "user", "content": content, **dict(turn)}, YES], **more}


def llava(text, **more):
    return {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "Yes."}], **more}


def part(**keys):
    return [{"type": "video", **keys}, {"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    "record, key, right",
    [
        (asked("<video>\nWhat?", vidoe="a.mp4"), "vidoe", "video"),
        (asked("What?", vedio="a.mp4"), "vedio", "video"),
        (llava("<image>\nWhat?", imgae="a.png"), "imgae", "image"),
        (llava("<video>\nWhat?", viedo="a.mp4"), "viedo", "video"),
        (llava("<video>\nWhat?", image="a.png", viedos=["a.mp4"]), "viedos", "videos"),
        (llava("What?", Image={"bytes": b"png", "path": None}), "Image", "image"),
        ({"question": "<image> What?", "answer": "Yes.", "imags": ["a.png"]}, "imags", "images"),
        ({"instruction": "What?", "output": "Yes.", "iamge": "a.png"}, "iamge", "image"),
        ({"prompt": "What?", "completion": "Yes.", "image1": "a.png"}, "image1", "image"),
        ({"imgae": "a.png", "caption": "A cat."}, "imgae", "image"),
        ({"mesages": [YES]}, "mesages", "messages"),
        (asked("<video> What?", clip="a.mp4"), "clip", "video"),
        (asked("<image> What?", picture=["a.PNG"]), "picture", "image"),
        (asked("<image> What?", picture={"bytes": b"png", "path": None}), "picture", "image"),
        (asked(part(vidoe="a.mp4"), videos=["b.mp4"]), "vidoe", "video"),
        (asked("What?", {"vidoe": "a.mp4"}), "messages[].vidoe", "video"),
    ],
)
def test_a_misspelt_key_is_named_with_the_right_one(record, key, right):
    problem = fault_of(record)
    assert repr(key) in problem and f"did you mean {right!r}?" in problem


@pytest.mark.parametrize(
    "record, problem",
    [
        (asked("<image> What?", {"image": "a.png"}), "the key 'messages[].image', which is not read: put it into the"),
        (asked("<image> What?", image=None), "1 <image> placeholders but 0 images"),
        (asked("<image> <video>", videos=["v.mp4"]), "2 <image> or <video> placeholders but 1 images or videos"),
    ],
)
def test_a_marker_without_its_image_is_refused(record, problem):
    assert problem in fault_of(record)


def test_a_marker_of_images_is_the_place_of_a_video_as_in_llava():
    parts = adapt(asked("<image>\nWhat?", video="v.mp4"), PLACE).messages[0].parts
    assert [type(part).__name__ for part in parts] == ["VideoPart", "TextPart"] and parts[1].text == "What?"


@pytest.mark.parametrize(
    "record, ignored",
    [
        (asked("What does <image> mean?"), ()),
        (asked("What does <video> mean?", topic="HTML", imgaes=3), ("topic", "imgaes")),
        (asked("What?", image="a.png", image2="b.png"), ("image2",)),
        (
            asked("What?", file_name="a.png", num_images=[2], image_size=[3, 4]),
            ("file_name", "num_images", "image_size"),
        ),
    ],
)
def test_other_keys_are_only_reported(record, ignored):
    assert adapt(record, PLACE).ignored == ignored


def test_preferences_know_misspelt_images_too():
    record = {"prompt": "<image> What?", "chosen": "Yes.", "rejected": "No.", "imgae": "a.png"}
    with pytest.raises(SampleError, match="has 'imgae', but DPO learns from texts only"):
        preference_of("rows:1", record, chats=True)
    assert preference_of("rows:1", {**record, "imgae": 3}, chats=True).ignored == ("imgae",)
