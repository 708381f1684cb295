"""Vript and ShareGPT4Video."""

import pytest
from records import MEDIA, PLACE, assistant, check, conversation, fault_of, user, without

from smol_hf.data.conversation import VideoPart
from smol_hf.data.records import adapt

# What our wordings are for the sample "rows:1" and its clips.
ABOUT = "What does this video show?"
SCENE = "Write this clip down as a scene of a script."
CLIP = "What happens in this video?"


def film(name):
    return VideoPart(path=str(MEDIA / name))


CAPTION = {
    "shot_type": "Medium shot",
    "camera_movement": "Static",
    "content": "A man talks.",
    "scene_title": "The start",
}
SCRIPT = "Title: The start\nShot type: Medium shot\nCamera movement: Static\nContent: A man talks."


def clip(number, caption):
    name = f"339dXVNQXac-Scene-{number:03}"
    return {"video_id": "339dXVNQXac", "clip_id": name, "video_title": "…", "caption": caption, "voiceover": ["Hi."]}


VRIPT = {
    "meta": {"video_id": "339dXVNQXac", "video_title": "…", "num_clips": 2, "integrity": True},
    "data": {
        "339dXVNQXac-Scene-001": clip(1, CAPTION),
        "339dXVNQXac-Scene-002": clip(2, {"shot_type": None, "camera_movement": "", "content": "He leaves."}),
        "another-Scene-001": None,
    },
}
FIRST = (user(film("339dXVNQXac/339dXVNQXac-Scene-001.mp4"), SCENE), assistant(SCRIPT))


@pytest.mark.parametrize("dataset", ["Mutonix/Vript", None])
def test_vript_with_all_clips_of_a_video(dataset):
    second = (user(film("339dXVNQXac/339dXVNQXac-Scene-002.mp4"), CLIP), assistant("He leaves."))
    check(VRIPT, conversation(*FIRST, *second), dataset)


@pytest.mark.parametrize("dataset", ["Mutonix/Vript", None])
def test_vript_with_a_clip_in_each_row(dataset):
    row = {"meta": VRIPT["meta"], "clip_id": "339dXVNQXac-Scene-001", "caption": CAPTION}
    check(row, conversation(*FIRST), dataset)
    check(clip(1, CAPTION), conversation(*FIRST), dataset)


def test_clips_stand_in_their_order_beyond_a_thousand():
    clips = {f"v-Scene-{number}": {**clip(1, CAPTION), "clip_id": f"v-Scene-{number}"} for number in (1000, 998, 999)}
    read = adapt({**VRIPT, "data": clips}, PLACE)
    assert [video.path[-8:] for video in read.videos] == ["-998.mp4", "-999.mp4", "1000.mp4"]


@pytest.mark.parametrize(
    "record, way",
    [
        (VRIPT, "data"),
        (VRIPT, "data.339dXVNQXac-Scene-002.video_id"),
        (VRIPT, "data.339dXVNQXac-Scene-001.clip_id"),
        (VRIPT, "data.339dXVNQXac-Scene-001.caption"),
        (VRIPT, "data.339dXVNQXac-Scene-002.caption.content"),
        (clip(1, CAPTION), "video_id"),
        (clip(1, CAPTION), "clip_id"),
        (clip(1, CAPTION), "caption"),
        (clip(1, CAPTION), "caption.content"),
        ({"meta": VRIPT["meta"], "clip_id": "1", "caption": CAPTION}, "meta.video_id"),
    ],
)
def test_a_missing_field_of_vript_is_named(record, way):
    assert f"lacks the field '{way}' (of the vript shape)" in fault_of(without(record, way), name="vript")


SHARED = {
    "video_id": "QFM2UNxEyLk",
    "video_path": "panda/QFM2UNxEyLk.mp4",
    "timestamp": ["00:00:00.000", "00:00:04.000"],
    "keyframe": [0, 96],
    "captions": [
        {"idx": "0", "content": "A door."},
        {"idx": "1", "content": "It opens."},
        {"idx": "-1", "content": "A door opens slowly."},
    ],
    "zip_folder": "panda_videos_1.zip",
}


@pytest.mark.parametrize("dataset", ["ShareGPT4Video/ShareGPT4Video", None])
def test_sharegpt4video(dataset):
    expected = conversation(user(film("panda/QFM2UNxEyLk.mp4"), ABOUT), assistant("A door opens slowly."))
    check(SHARED, expected, dataset)
    check({**SHARED, "captions": SHARED["captions"][::-1]}, expected, dataset)
    check({**SHARED, "captions": [{"idx": -1, "content": "A door opens slowly."}]}, expected, dataset)


@pytest.mark.parametrize("way", ["video_path", "captions", "captions[1].idx", "captions[2].content"])
def test_a_missing_field_of_sharegpt4video_is_named(way):
    problem = fault_of(without(SHARED, way), name="sharegpt4video")
    assert f"lacks the field '{way}' (of the sharegpt4video shape)" in problem


@pytest.mark.parametrize("captions, number", [(SHARED["captions"][:2], 0), (SHARED["captions"][2:] * 2, 2), (None, 0)])
def test_there_is_one_caption_of_the_whole_video(captions, number):
    problem = fault_of({**SHARED, "captions": captions}, name="sharegpt4video")
    assert f"'captions' has {number} of the complete video" in problem
