"""Chat messages, as in SmolTalk, TRL and the files of users.

{"messages": [{"role": …, "content": text | [{"type": "text" | "image" | "video", …}, …]}, …],
 "images"?: [image, …], "videos"?: [video, …], "tools"?: [tool, …], "turn_ratings"?: see `ratings`}

In typed parts, placeholders are text. A part of an image or a video names its file, or takes the next one of `images`
or `videos`. A part of a video may have a `start` and an `end` in seconds. In a plain text of the user, `<image>` and
`<video>` are the places of such media, as in LLaVA's shape. In a record without keys of media, they are text. Media
that no text mentions come first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart, Message, Part, SampleError, TextPart, VideoPart
from smol_hf.data.records.dialogue import (
    is_marked,
    media_first,
    place_media,
    read_turns,
    role_of,
    text_of,
    waiting_media,
    with_system,
)
from smol_hf.data.records.fields import Fields, label, list_of_objects
from smol_hf.data.records.media import HINT, Media, is_none, media_parts, media_under
from smol_hf.data.records.ratings import written_ratings
from smol_hf.data.records.registry import Place, adapter
from smol_hf.data.records.tools import tools_of, turn_fields, with_content
from smol_hf.data.records.turn_keys import (
    MEDIA_KEYS,
    SYSTEM_KEYS,
    TRAIN_KEYS,
    ignored_turn_keys,
    is_given,
    is_trained,
    meant,
)
from smol_hf.support.formatting import is_number

KINDS = {"image": ImagePart, "video": VideoPart}
# Other fields of chat messages.
OTHER_FIELDS = (*MEDIA_KEYS, "turn_ratings", "source", "tools", *SYSTEM_KEYS)
CONVERSATIONS = ("messages", "conversations", "texts", "sentences", "global")
SECONDS = ("start", "end")  # of a video
PART_KEYS = ("type", "text", "image", "video", "path", "url", "image_url", "base64")


@adapter(
    "messages",
    datasets=("HuggingFaceTB/smoltalk", "HuggingFaceTB/smol-smoltalk"),
    shape=("messages",),
    fields=("messages", *OTHER_FIELDS),
)
def read_messages(record: dict[str, Any], place: Place) -> Conversation:
    """Chat messages with a role each; texts, or typed parts of text, image and video."""
    where = place.where
    turns = list_of_objects(Fields(record, place, "messages").given("messages"), "messages", where)
    return conversation_of(record, turns, "messages", place)


def is_conversation(record: dict[str, Any]) -> bool:
    """Return True if a record holds a conversation, so that its other texts are not trained."""
    return any(record.get(key) is not None for key in CONVERSATIONS)


def conversation_of(record: dict[str, Any], turns: list[dict], name: str, place: Place) -> Conversation:
    """Build the conversation of turns with a `role` and a `content` each, in the field `name` of the record.

    A turn may have `from` and `value` instead.
    """
    where = place.where
    turns = [with_content(renamed(turn)) for turn in turns]
    media_by_kind = {key: media_under(record, key, kind, place) for key, kind in KINDS.items()}
    if all(isinstance(turn.get("content"), str) for turn in turns):
        messages = plain_messages(record, turns, media_by_kind, where)
    else:
        messages = typed_messages(turns, media_by_kind, place)
    messages = with_system(messages, record, where)
    ignored = ignored_turn_keys(turns, ("role", "content", *TRAIN_KEYS), name)
    parts = [part for turn in turns if isinstance(turn["content"], list) for part in turn["content"]]
    is_video = [part.get("type") == "video" for part in parts]
    for kind, known in ((False, PART_KEYS), (True, (*PART_KEYS, *SECONDS))):
        of_kind = (part for part, video in zip(parts, is_video) if video == kind)
        ignored += ignored_turn_keys(of_kind, known, f"{name}[].content")
    for key in ("image", "image_url"):
        if any(isinstance(part.get(key), dict) and is_given(part[key].get(HINT)) for part in parts):
            ignored += (f"{name}[].content[].{key}.{HINT}",)
    source, ratings = label(record, "source"), written_ratings(record, place)
    return Conversation(where, tuple(messages), source, ratings, ignored, tools_of(record, where))


def renamed(turn: dict) -> dict:
    """Return a turn with `role` and `content` instead of ShareGPT's `from` and `value`."""
    if "role" in turn or "from" not in turn:
        return turn
    names = {"from": "role", "value": "content"}
    return {names.get(key, key): value for key, value in turn.items()}


def plain_messages(
    record: dict, turns: list[dict], media_by_kind: dict[str, list[Media]], where: str
) -> list[Message]:
    texts, _ = read_turns(turns, ("role", "content"), "messages", where)
    has_keys = any(key in record for key in MEDIA_KEYS)
    waiting = waiting_media(record, media_by_kind["image"], media_by_kind["video"]) if has_keys else {}
    if is_marked(texts, waiting):
        return place_media(texts, waiting, where)
    messages = [Message(role, (TextPart(text),), trained, fields) for role, text, trained, fields in texts]
    return media_first(messages, [part for media in media_by_kind.values() for part in media], where)


def typed_messages(turns: list[dict], media_by_kind: dict[str, list[Media]], place: Place) -> list[Message]:
    where = place.where
    used = dict.fromkeys(media_by_kind, 0)
    messages = []
    for number, turn in enumerate(turns, start=1):
        role = role_of(turn, "role", number, where)
        fields = turn_fields(turn, role, number, where)
        content = turn.get("content")
        if content is None:
            raise SampleError(where, f"message {number} has no content: write a text, or remove the message")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        parts: list[Part] = []
        for part in [] if content == [] else list_of_objects(content, f"content of message {number}", where):
            kind = "image" if part.get("type") == "image_url" else part.get("type")  # OpenAI's name
            if any(is_given(part.get(key)) and not part[key] for key in TRAIN_KEYS):
                problem = "has a part that is marked as not trained: mark the whole message, or split it"
                raise SampleError(where, f"message {number} {problem}")
            if kind == "text":
                parts.append(TextPart(text_of(part, "text", number, where)))
            elif kind not in list(KINDS):
                raise SampleError(where, f"message {number} has a part of type {kind!r}: text, image or video")
            elif role != "user":
                raise SampleError(where, f"message {number} is the {role}'s and shows {kind}s: only users do")
            elif named := named_media(part, kind, number, place):
                parts += [clipped(each, part, number, where) for each in named]
            elif misspelt := [
                key for key in part if key not in PART_KEYS and is_given(part[key]) and meant(key, KINDS)
            ]:
                problem = f"a part of type {kind!r} with the unknown key {misspelt[0]!r}, did you mean {kind!r}?"
                raise SampleError(where, f"message {number} has {problem}")
            else:
                used[kind] += 1
                if used[kind] > len(media_by_kind[kind]):
                    raise SampleError(
                        where,
                        f"message {number} shows {kind} {used[kind]}, but '{kind}s' has "
                        f"{len(media_by_kind[kind])}: name the "
                        f"file in the part of type {kind!r}, or list it there",
                    )
                parts.append(clipped(media_by_kind[kind][used[kind] - 1], part, number, where))
        messages.append(Message(role, tuple(parts), is_trained(turn, role, number, where), fields))
    for kind, media in media_by_kind.items():
        if used[kind] != len(media):
            raise SampleError(where, f"{len(media)} {kind}s, but the messages show {used[kind]} of them")
    return messages


def named_media(part: dict, kind: str, number: int, place: Place) -> list[Media]:
    """Return the media that a part names; [] if it takes the next one of the record."""
    keys = (kind, "path", "url", *(("image_url", "base64") if kind == "image" else ()))
    given = [part[key] for key in keys if not is_none(part.get(key))]
    if len(given) > 1:
        raise SampleError(place.where, f"message {number} has a part with several {kind}s: keep one")
    return media_parts(given[0], f"{kind} of message {number}", KINDS[kind], place) if given else []


def clipped(media: Media, part: dict, number: int, where: str) -> Media:
    """Return a video with the `start` and `end` of its part. Raises SampleError for wrong ones."""
    given = {key: part[key] for key in SECONDS if part.get(key) is not None}
    if not given or not isinstance(media, VideoPart):
        return media
    for key, value in given.items():
        if not is_number(value) or value < 0:
            raise SampleError(where, f"message {number} has a video with {key} {value!r}: give seconds, 0 or more")
    clip = replace(media, **given)
    if clip.end is not None and clip.end <= (clip.start or 0):
        raise SampleError(
            where, f"message {number} has a video from {clip.start or 0:g} s to {clip.end:g} s: swap them"
        )
    return clip
