"""SmolTalk and other chat messages."""

import pytest
from records import MEDIA, assistant, check, conversation, fault_of, user, without

from smol_hf.data.conversation import ImagePart, Message, TextPart, VideoPart

SMOLTALK = {
    "messages": [
        {"content": "Be brief.", "role": "system"},
        {"content": "What does <image> mean?", "role": "user"},
        {"content": "A place.", "role": "assistant"},
    ],
    "source": "smol-magpie-ultra",
}
A, FILM = ImagePart(path=str(MEDIA / "a.png")), VideoPart(path=str(MEDIA / "v.mp4"))
YES = {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize("dataset", ["HuggingFaceTB/smoltalk", "HuggingFaceTB/smol-smoltalk", None])
def test_smoltalk(dataset):
    messages = (
        Message("system", (TextPart("Be brief."),)),
        user("What does <image> mean?"),
        assistant("A place."),
    )
    check(SMOLTALK, conversation(*messages, source="smol-magpie-ultra"), dataset)
    check(without(SMOLTALK, "source"), conversation(*messages), dataset)


@pytest.mark.parametrize("way", ["messages", "messages[1].role", "messages[2].content"])
def test_a_missing_field_is_named(way):
    problem = fault_of(without(SMOLTALK, way), dataset="HuggingFaceTB/smoltalk")
    assert way.split(".")[-1] in problem.split("; it has")[0]


def asked(content, **more):
    return {"messages": [{"role": "user", "content": content}, YES], **more}


TYPED = [
    {"type": "video", "video": "v.mp4", "text": None},
    {"type": "text", "text": "<image> <video>", "video": None},
    {"type": "image"},
]


@pytest.mark.parametrize(
    "record, expected",
    [
        (asked(TYPED, images=["a.png"]), user(FILM, "<image> <video>", A)),
        (asked([{"type": "video"}, {"type": "image"}], image="a.png", video="v.mp4"), user(FILM, A)),
        (asked([{"type": "video", "path": "v.mp4"}]), user(FILM)),
        (asked([{"type": "image", "image": {"bytes": b"png", "path": None}}]), user(ImagePart(content=b"png"))),
        (asked("Look.", images=["a.png"], videos=["v.mp4"]), user(A, FILM, "Look.")),
        (asked("First <video>\nthen <image>", images=["a.png"], videos=["v.mp4"]), user("First ", FILM, "then ", A)),
        (asked("What is <video>?", images=["a.png"]), user(A, "What is <video>?")),
    ],
)
def test_where_media_stand(record, expected):
    plain = isinstance(record["messages"][0]["content"], str)
    check(record, conversation(expected, assistant("Yes.")), arrow=plain)


@pytest.mark.parametrize(
    "record, problem",
    [
        (asked([{"type": "video"}, {"type": "video"}], video="v.mp4"), "shows video 2, but 'videos' has 1"),
        (asked("Hm", video="v.mp4") | {"messages": [YES]}, "no user turn to show them in"),
        (asked([{"type": "text", "text": "Hm"}], video="v.mp4"), "1 videos, but the messages show 0 of them"),
        (asked([{"type": "audio"}]), "a part of type 'audio': text, image or video"),
        (asked([{"type": ["image"]}]), "a part of type ['image']"),
        (asked([{"type": "text"}]), "message 1 lacks the key 'text'"),
        (asked([{"type": "video", "video": "v.mp4", "path": "v.mp4"}]), "several videos"),
        (asked("Only <video>", images=["a.png"], videos=["v.mp4"]), "0 <image> placeholders but 1 images"),
        ({"messages": [{"role": "assistant", "content": [{"type": "video"}]}]}, "shows videos: only users do"),
    ],
)
def test_what_does_not_fit_together_is_refused(record, problem):
    assert problem in fault_of(record)


def test_typed_parts_whose_missing_keys_arrow_filled_with_null():
    text = {"type": "text", "text": "Yes.", "video": None}
    record = {
        "messages": [{"role": "user", "content": TYPED}, {"role": "assistant", "content": [text]}],
        "image": "a.png",
    }
    check(record, conversation(user(FILM, "<image> <video>", A), assistant("Yes.")))


def test_a_part_of_a_video_has_a_start_and_an_end():
    def record(**part):
        content = [{"type": "video", "video": "v.mp4", **part}, {"type": "text", "text": "Which?"}]
        return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "Red."}]}

    video = VideoPart(path=str(MEDIA / "v.mp4"), start=1.5, end=4)
    check(record(start=1.5, end=4), conversation(user(video, "Which?"), assistant("Red.")), arrow=False)
    listed = {**record(start=1.5, end=4), "videos": ["v.mp4"]}
    del listed["messages"][0]["content"][0]["video"]
    check(listed, conversation(user(video, "Which?"), assistant("Red.")), arrow=False)
    for odd in (float("nan"), float("inf"), 10**400):
        assert "give seconds, 0 or more" in fault_of(record(start=odd)) and "give seconds" in fault_of(record(end=odd))
    assert "a video with start '1:30': give seconds" in fault_of(record(start="1:30"))
    assert "a video with end -1: give seconds" in fault_of(record(end=-1))
    assert "a video from 5 s to 4 s: swap them" in fault_of(record(start=5, end=4))
