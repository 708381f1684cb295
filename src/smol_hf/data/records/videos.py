"""Records of video datasets: Vript, ShareGPT4Video, FineVideo and MovieChat-1K."""

from __future__ import annotations

from typing import Any

from smol_hf.data.conversation import Conversation, Message, VideoPart
from smol_hf.data.records.dialogue import media_first, said
from smol_hf.data.records.fields import Fields, label
from smol_hf.data.records.media import media_parts
from smol_hf.data.records.prompts import SCRIPT, TIMELINE, VIDEO, drawn
from smol_hf.data.records.registry import Place, adapter
from smol_hf.support.formatting import is_number

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
    """Clips, or all clips of a video in order, each with its own file."""
    fields = Fields(record, place, "vript")
    if "clip_id" in record or "caption" in record:
        owner = fields if record.get("video_id") is not None or "meta" not in record else fields.inside("meta")
        return Conversation(place.where, tuple(clip(fields, owner, place)))
    clips = fields.inside("data")
    # Arrow gives each row the clips of all rows, with null for those of other rows.
    names = sorted((name for name, value in clips.values.items() if value is not None), key=lambda x: (len(x), x))
    messages = []
    for name in names:
        one = clips.inside(name)
        messages += clip(one, one, place)
    return Conversation(place.where, tuple(messages))


def clip(fields: Fields, owner: Fields, place: Place) -> list[Message]:
    """Return the exchange about a clip; `owner` has the id of its video."""
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
    """Videos with a caption of the complete video."""
    fields = Fields(record, place, "sharegpt4video")
    [video] = media_parts([fields.given("video_path")], "video_path", VideoPart, place)
    captions = fields.objects("captions")
    whole = [each.text("content") for each in captions if str(each.given("idx")) == WHOLE_VIDEO]
    if len(whole) != 1:
        raise fields.fault(f"'captions' has {len(whole)} of the complete video (idx {WHOLE_VIDEO}): it needs one")
    request = drawn(VIDEO, place.where, "request")
    return Conversation(place.where, (said("user", video, request), said("assistant", whole[0])))


@adapter("finevideo", datasets=("HuggingFaceFV/finevideo",), shape=("mp4", "json"), fields=("mp4", "json"))
def read_finevideo(record: dict[str, Any], place: Place) -> Conversation:
    """Videos with a description, questions and a list of scenes."""
    fields = Fields(record, place, "finevideo")
    [video] = media_parts([fields.given("mp4")], "mp4", VideoPart, place)
    about = fields.inside("json")
    content = about.inside("content_metadata")
    messages = [
        said("user", video, drawn(VIDEO, place.where, "request")),
        said("assistant", content.text("description")),
    ]
    for pair in content.objects("qAndA"):
        messages += [said("user", pair.text("question")), said("assistant", pair.text("answer"))]
    if timeline := "\n".join(timed_lines(content)):
        messages += [said("user", drawn(TIMELINE, place.where, "timeline")), said("assistant", timeline)]
    return Conversation(place.where, tuple(messages), label(about.values, "content_fine_category"))


def timed_lines(content: Fields) -> list[str]:
    """Return a line for each activity of each scene, with the times as the dataset writes them."""
    lines = []
    for scene in content.objects("scenes"):
        for activity in scene.objects("activities"):
            times = activity.inside("timestamp")
            span = f"{times.text('start_timestamp')} – {times.text('end_timestamp')}"
            lines.append(f"{span}: {activity.text('description')}")
    return lines


@adapter(
    "moviechat",
    datasets=("Enxin/MovieChat-1K_train",),
    shape=("info", "global"),
    fields=("info", "caption", "global", "breakpoint"),
)
def read_moviechat(record: dict[str, Any], place: Place) -> Conversation:
    """Videos with a caption and questions about the complete video and about moments."""
    fields = Fields(record, place, "moviechat")
    info = fields.inside("info")
    video = media_parts([info.given("video_path")], "info.video_path", VideoPart, place)
    messages = []
    if record.get("caption"):
        messages += [said("user", drawn(VIDEO, place.where, "request")), said("assistant", fields.text("caption"))]
    for pair in fields.objects("global"):
        messages += [said("user", pair.text("question")), said("assistant", pair.text("answer"))]
    for pair in fields.objects("breakpoint") if "breakpoint" in record else []:
        question = f"{moment(pair, info.values.get('fps'))} of the video: {pair.text('question')}"
        messages += [said("user", question), said("assistant", pair.text("answer"))]
    return Conversation(place.where, tuple(media_first(messages, video, place.where)))


def moment(pair: Fields, frames_per_second: Any) -> str:
    """Return `At 1:04`, or `At frame 1925` if its second is unknown."""
    time = pair.given("time")
    if isinstance(time, str):
        return f"At {pair.text('time')}"
    if not is_number(time) or time < 0:
        raise pair.fault(f"the field {pair.way('time')!r} must be the number of a frame, not {time!r}")
    if not is_number(frames_per_second) or frames_per_second <= 0:
        return f"At frame {time:g}"
    minutes, seconds = divmod(int(time / frames_per_second), 60)
    hours, minutes = divmod(minutes, 60)
    return f"At {hours}:{minutes:02}:{seconds:02}" if hours else f"At {minutes}:{seconds:02}"
