"""MovieChat: questions about a whole video and about moments of it."""

import copy

import pytest
from records import MEDIA, PLACE, assistant, check, conversation, fault_of, user, without

from smol_hf.data.conversation import VideoPart
from smol_hf.data.records import adapt

# What our wording is for the sample "rows:1".
ABOUT = "What does this video show?"
MOVIECHAT = {
    "info": {"video_path": "AWA-1.mp4", "fps": 25, "num_frame": 100_000, "class": "animal"},
    "caption": "Elephants walk.",
    "global": [{"question": "Is it day?", "answer": "Yes."}],
    "breakpoint": [
        {"time": 1925, "question": "Is it drinking?", "answer": "No."},
        {"time": 91_550.0, "question": "How many?", "answer": "Two."},
    ],
}
FILM = VideoPart(path=str(MEDIA / "AWA-1.mp4"))
GLOBAL = (user("Is it day?"), assistant("Yes."))


@pytest.mark.parametrize("dataset", ["Enxin/MovieChat-1K_train", None])
def test_moviechat(dataset):
    moments = (
        user("At 1:17 of the video: Is it drinking?"),
        assistant("No."),
        user("At 1:01:02 of the video: How many?"),
        assistant("Two."),
    )
    described = (user(FILM, ABOUT), assistant("Elephants walk."))
    check(MOVIECHAT, conversation(*described, *GLOBAL, *moments), dataset)
    asked = (user(FILM, "Is it day?"), assistant("Yes."))
    check(without(MOVIECHAT, "caption"), conversation(*asked, *moments), dataset)
    check({**without(MOVIECHAT, "caption"), "breakpoint": None}, conversation(*asked), dataset)
    check(without({**MOVIECHAT, "caption": ""}, "breakpoint"), conversation(*asked), dataset)


@pytest.mark.parametrize(
    "time, fps, moment",
    [
        (1925, None, "At frame 1925"),
        (1925, 0, "At frame 1925"),
        (1925, "25", "At frame 1925"),
        (0, 25, "At 0:00"),
        (1499, 25, "At 0:59"),
        ("02:10", 25, "At 02:10"),
    ],
)
def test_a_moment_is_said_as_far_as_it_is_known(time, fps, moment):
    record = copy.deepcopy(MOVIECHAT)
    record["info"]["fps"] = fps
    record["breakpoint"] = [{"time": time, "question": "Who?", "answer": "He."}]
    assert adapt(record, PLACE).messages[-2] == user(f"{moment} of the video: Who?")


@pytest.mark.parametrize("time", [-1, float("nan"), [5], True])
def test_a_time_that_is_none_is_refused(time):
    record = {**MOVIECHAT, "breakpoint": [{"time": time, "question": "Who?", "answer": "He."}]}
    assert "'breakpoint[0].time' must be the number of a frame" in fault_of(record)


@pytest.mark.parametrize(
    "way",
    [
        "info",
        "info.video_path",
        "global",
        "global[0].question",
        "global[0].answer",
        "breakpoint[0].time",
        "breakpoint[1].question",
        "breakpoint[1].answer",
    ],
)
def test_a_missing_field_of_moviechat_is_named(way):
    assert f"lacks the field '{way}' (of the moviechat shape)" in fault_of(without(MOVIECHAT, way), name="moviechat")
