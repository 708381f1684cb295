"""Records of MovieChat-1K: {"info": {"video_path": path, "fps"?: number, …}, "caption"?: text,
"global": [{question, answer}, …], "breakpoint"?: [{time, question, answer}, …]}.

A question at a breakpoint is about the frame numbered `time`; it is asked with the moment, or with the number of the
frame where the record does not say how many frames there are in a second.
"""

from __future__ import annotations

from typing import Any

from smol_hf.data.adapters.dialogue import media_first, said
from smol_hf.data.adapters.fields import Fields
from smol_hf.data.adapters.media import media_parts
from smol_hf.data.adapters.prompts import VIDEO, drawn
from smol_hf.data.adapters.registry import Place, adapter
from smol_hf.data.conversation import Conversation, VideoPart
from smol_hf.support.formatting import is_number


@adapter(
    "moviechat",
    datasets=("Enxin/MovieChat-1K_train",),
    shape=("info", "global"),
    fields=("info", "caption", "global", "breakpoint"),
)
def read_moviechat(record: dict[str, Any], place: Place) -> Conversation:
    """A video, its caption and questions about the whole and about moments."""
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
    """`At 1:04`, or `At frame 1925` when it cannot be known which second that is."""
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
