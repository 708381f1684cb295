"""Rows of FineVideo: {"mp4": bytes, "json": {"content_metadata": {description, qAndA, scenes, …}, …}}.

The video is described, then the questions are asked, then what happens is listed with its times.
"""

from __future__ import annotations

from typing import Any

from smol_hf.data.adapters.dialogue import said
from smol_hf.data.adapters.fields import Fields, label
from smol_hf.data.adapters.media import media_parts
from smol_hf.data.adapters.prompts import TIMELINE, VIDEO, drawn
from smol_hf.data.adapters.registry import Place, adapter
from smol_hf.data.conversation import Conversation, VideoPart


@adapter("finevideo", datasets=("HuggingFaceFV/finevideo",), shape=("mp4", "json"), fields=("mp4", "json"))
def read_finevideo(record: dict[str, Any], place: Place) -> Conversation:
    """A video, described, asked about and listed by its scenes."""
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
    """A line for each activity of each scene, with the times as the dataset writes them."""
    lines = []
    for scene in content.objects("scenes"):
        for activity in scene.objects("activities"):
            times = activity.inside("timestamp")
            span = f"{times.text('start_timestamp')} – {times.text('end_timestamp')}"
            lines.append(f"{span}: {activity.text('description')}")
    return lines
