"""Captions of clips and of whole videos: Vript and ShareGPT4Video.

vript           {"meta": {video_id, …}, "data": {clip_id: {video_id, clip_id, caption, …}}}, or a clip in a row of its
                own, {"clip_id", "caption", "video_id" | "meta": {video_id}}. The caption is {content, scene_title?,
                shot_type?, camera_movement?}, the file of a clip `video_id`/`clip_id`.mp4.
sharegpt4video  {"video_path": path, "captions": [{"idx": text, "content": text}, …]}, of which "-1" is about the
                whole video.
"""

from __future__ import annotations

from typing import Any

from smol_hf.data.adapters.dialogue import said
from smol_hf.data.adapters.fields import Fields
from smol_hf.data.adapters.media import media_parts
from smol_hf.data.adapters.prompts import SCRIPT, VIDEO, drawn
from smol_hf.data.adapters.registry import Place, adapter
from smol_hf.data.conversation import Conversation, Message, VideoPart

VRIPT = ("meta", "data", "clip_id", "caption", "video_id")
WHOLE_VIDEO = "-1"
SCRIPT_LINES = {
    "scene_title": "Title",
    "shot_type": "Shot type",
    "camera_movement": "Camera movement",
    "content": "Content",
}


def is_vript(record: dict[str, Any]) -> bool:
    nested = isinstance(record.get("meta"), dict) and isinstance(record.get("data"), dict)
    return nested or (record.get("clip_id") is not None and isinstance(record.get("caption"), dict))


@adapter("vript", datasets=("Mutonix/Vript",), shape=is_vript, fields=VRIPT)
def read_vript(record: dict[str, Any], place: Place) -> Conversation:
    """A clip, or all clips of a video in their order, each with its own file."""
    fields = Fields(record, place, "vript")
    if "clip_id" in record or "caption" in record:
        owner = fields if record.get("video_id") is not None or "meta" not in record else fields.inside("meta")
        return Conversation(place.where, tuple(clip(fields, owner, place)))
    clips = fields.inside("data")
    # Arrow gives every row the clips of all rows, null where they are another's.
    names = sorted((name for name, value in clips.values.items() if value is not None), key=lambda x: (len(x), x))
    messages = []
    for name in names:
        one = clips.inside(name)
        messages += clip(one, one, place)
    return Conversation(place.where, tuple(messages))


def clip(fields: Fields, owner: Fields, place: Place) -> list[Message]:
    """The exchange about a clip; `owner` has the id of its video."""
    clip_id = fields.text("clip_id")
    [video] = media_parts([f"{owner.text('video_id')}/{clip_id}.mp4"], "clip_id", VideoPart, place)
    caption = fields.inside("caption")
    lines = {
        key: caption.text(key) for key in SCRIPT_LINES if key == "content" or caption.values.get(key) not in (None, "")
    }
    if set(lines) == {"content"}:
        return [said("user", video, drawn(VIDEO, place.where, clip_id)), said("assistant", lines["content"])]
    script = "\n".join(f"{SCRIPT_LINES[key]}: {line}" for key, line in lines.items())
    return [said("user", video, drawn(SCRIPT, place.where, clip_id)), said("assistant", script)]


@adapter(
    "sharegpt4video",
    datasets=("ShareGPT4Video/ShareGPT4Video",),
    shape=("video_path", "captions"),
    fields=("video_path", "captions"),
)
def read_sharegpt4video(record: dict[str, Any], place: Place) -> Conversation:
    """A video and the caption of the whole of it."""
    fields = Fields(record, place, "sharegpt4video")
    [video] = media_parts([fields.given("video_path")], "video_path", VideoPart, place)
    captions = fields.objects("captions")
    whole = [each.text("content") for each in captions if str(each.given("idx")) == WHOLE_VIDEO]
    if len(whole) != 1:
        raise fields.fault(f"'captions' has {len(whole)} of the whole video (idx {WHOLE_VIDEO}): it needs one")
    request = drawn(VIDEO, place.where, "request")
    return Conversation(place.where, (said("user", video, request), said("assistant", whole[0])))
