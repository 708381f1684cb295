"""Records in LLaVA's shape.

{"image"?: image | [image, …] | null, "video"?: video | [video, …] | null,
 "conversations": [{"from": "human" | "gpt" | "system", "value": text}, …]}

In a user's text, `<image>` is the place of the next image and `<video>` that of the next video. A file under `image`
with a video's suffix is a video. If a record has media of only one kind, both placeholders mean it: LLaVA-Video-178K
writes `<image>` for its videos. In a record without video keys and videos, `<video>` is text.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart, VideoPart
from smol_hf.data.records.dialogue import (
    PLACEHOLDERS,
    Turn,
    is_marked,
    media_first,
    place_media,
    read_turns,
    waiting_media,
    with_system,
)
from smol_hf.data.records.fields import Fields, label, list_of_objects
from smol_hf.data.records.media import media_parts, media_under
from smol_hf.data.records.messages import conversation_of
from smol_hf.data.records.ratings import written_ratings
from smol_hf.data.records.registry import Place, adapter
from smol_hf.data.records.tools import tools_of, with_content
from smol_hf.data.records.turn_keys import MEDIA_KEYS, SYSTEM_KEYS

TURNS, KEYS = "conversations", ("from", "value")
SOURCES = ("data_source", "source", "metadata.dataset")
READ = (TURNS, *MEDIA_KEYS, *SYSTEM_KEYS, "tools", "source", "data_source", "metadata", "turn_ratings")


@adapter(
    "llava",
    datasets=(
        "lmms-lab/LLaVA-OneVision-Data",
        "MAmmoTH-VL/MAmmoTH-VL-Instruct-12M",
        "lmms-lab/M4-Instruct-Data",
        "liuhaotian/LLaVA-Instruct-150K",
        "liuhaotian/LLaVA-Pretrain",
        "lmms-lab/LLaVA-ReCap-558K",
        "Lin-Chen/ShareGPT4V",
    ),
    shape=(TURNS,),
    fields=READ,
)
def read_llava(record: dict[str, Any], place: Place) -> Conversation:
    """Conversations in LLaVA's form, `<image>` at each image; or chat messages under the same key."""
    turns = list_of_objects(Fields(record, place, "llava").given(TURNS), TURNS, place.where)
    source = label(record, *SOURCES)
    if all("role" in turn and "content" in with_content(turn) for turn in turns):
        return replace(conversation_of(record, turns, TURNS, place), source=source)
    images = media_under(record, "image", ImagePart, place)
    videos = media_under(record, "video", VideoPart, place)
    turns, ignored = read_turns(turns, KEYS, TURNS, place.where)
    waiting = waiting_media(record, images, videos)
    messages = with_system(place_media(turns, waiting, place.where), record, place.where)
    ratings = written_ratings(record, place) if "turn_ratings" in record else ()
    tools = tools_of(record, place.where) if "tools" in record else ()
    return Conversation(place.where, tuple(messages), source, ratings, ignored, tools)


@adapter("llava_video", datasets=("lmms-lab/LLaVA-Video-178K",), fields=READ)
def read_llava_video(record: dict[str, Any], place: Place) -> Conversation:
    """LLaVA-Video-178K, with the file `data_source`/`video`."""
    fields = Fields(record, place, "llava_video")
    folder, names = fields.text("data_source"), fields.given("video")
    paths = [
        posixpath.join(folder, name) if isinstance(name, str) and name else name
        for name in (names if isinstance(names, list) else [names])
    ]
    videos = media_parts(paths, "video", VideoPart, place)
    turns, ignored = turns_of(fields)
    messages = place_media(turns, dict.fromkeys(PLACEHOLDERS, videos), place.where)
    messages = with_system(messages, record, place.where)
    tools = tools_of(record, place.where)
    return Conversation(place.where, tuple(messages), folder, ignored=ignored, tools=tools)


@adapter("llava_unmarked", datasets=("TIGER-Lab/VISTA-400K", "orrzohar/Video-STaR"), fields=READ)
def read_unmarked(record: dict[str, Any], place: Place) -> Conversation:
    """VISTA-400K and Video-STaR; without a placeholder in the text, the media come first."""
    fields = Fields(record, place, "llava_unmarked")
    if not any(key in record for key in MEDIA_KEYS):
        raise fields.lacking("'image' or 'video'")
    images = media_under(record, "image", ImagePart, place)
    videos = media_under(record, "video", VideoPart, place)
    turns, ignored = turns_of(fields)
    if is_marked(turns, PLACEHOLDERS):
        media = images or videos
        messages = place_media(turns, {"<image>": media, "<video>": videos or media}, place.where)
    else:
        messages = media_first(place_media(turns, {}, place.where), images + videos, place.where)
    messages = with_system(messages, record, place.where)
    tools = tools_of(record, place.where)
    return Conversation(place.where, tuple(messages), label(record, *SOURCES), ignored=ignored, tools=tools)


def turns_of(fields: Fields) -> tuple[list[Turn], tuple[str, ...]]:
    """Read the turns of a record, and the names of their ignored fields."""
    where = fields.place.where
    return read_turns(list_of_objects(fields.given(TURNS), TURNS, where), KEYS, TURNS, where)
