"""FineVideo: a video held as bytes, with a description, questions and timed activities."""

import copy

import pytest
from records import assistant, check, conversation, fault_of, user, without

from smol_hf.data.conversation import VideoPart

# What our wordings are for the sample "rows:1".
ABOUT = "What does this video show?"
WHEN = "List what happens in this video, with the times."
FINEVIDEO = {
    "mp4": b"mp4",
    "json": {
        "content_fine_category": "Cooking",
        "content_metadata": {
            "characterList": [{"characterId": "1", "description": "a cook", "name": "Ann"}],
            "description": "A cook bakes bread.",
            "fps": 25.0,
            "qAndA": [{"answer": "Ann.", "question": "Who bakes?"}, {"answer": "Bread.", "question": "What?"}],
            "scenes": [
                {
                    "activities": [
                        {
                            "description": "She kneads.",
                            "timestamp": {"end_timestamp": "00:00:09.500", "start_timestamp": "00:00:01.000"},
                        },
                        {
                            "description": "She waits.",
                            "timestamp": {"end_timestamp": "00:00:20.000", "start_timestamp": "00:00:09.500"},
                        },
                    ],
                    "cast": ["1"],
                    "sceneId": 1,
                },
                {"activities": None, "cast": [], "sceneId": 2},
            ],
        },
        "duration_seconds": 20,
    },
}
TIMELINE = "00:00:01.000 – 00:00:09.500: She kneads.\n00:00:09.500 – 00:00:20.000: She waits."


@pytest.mark.parametrize("dataset", ["HuggingFaceFV/finevideo", None])
def test_finevideo(dataset):
    expected = conversation(
        user(VideoPart(content=b"mp4"), ABOUT),
        assistant("A cook bakes bread."),
        user("Who bakes?"),
        assistant("Ann."),
        user("What?"),
        assistant("Bread."),
        user(WHEN),
        assistant(TIMELINE),
        source="Cooking",
    )
    check(FINEVIDEO, expected, dataset)


def test_finevideo_without_questions_and_scenes():
    record = copy.deepcopy(FINEVIDEO)
    record["json"]["content_metadata"] |= {"qAndA": [], "scenes": None}
    expected = user(VideoPart(content=b"mp4"), ABOUT)
    check(record, conversation(expected, assistant("A cook bakes bread."), source="Cooking"))


CONTENT = "json.content_metadata"
ACTIVITY = f"{CONTENT}.scenes[0].activities[1]"


@pytest.mark.parametrize(
    "way",
    [
        "mp4",
        "json",
        CONTENT,
        f"{CONTENT}.description",
        f"{CONTENT}.qAndA",
        f"{CONTENT}.qAndA[1].question",
        f"{CONTENT}.qAndA[0].answer",
        f"{CONTENT}.scenes",
        f"{CONTENT}.scenes[1].activities",
        f"{ACTIVITY}.description",
        f"{ACTIVITY}.timestamp",
        f"{ACTIVITY}.timestamp.start_timestamp",
        f"{ACTIVITY}.timestamp.end_timestamp",
    ],
)
def test_a_missing_field_of_finevideo_is_named(way):
    assert f"lacks the field '{way}' (of the finevideo shape)" in fault_of(without(FINEVIDEO, way), name="finevideo")
