"""Images with a caption. The user's request is one of our wordings, drawn by the name of the sample.

captions             {"image": image, "caption" | "text": text}
coco                 {"image"?: image, "filepath"?, "filename"?: text, "sentences": {"raw": text, …}}; one of several
                     sentences is drawn by the name of the sample
conceptual_captions  {"image_url": URL, "caption": text}: refused, because the images must be downloaded first
img2dataset          {"jpg" | "png" | "webp": image or null, "caption": text, "status": "success" or another text, …}
"""

from __future__ import annotations

import posixpath
from typing import Any

from smol_hf.data.conversation import Conversation, FilteredOutError, ImagePart, VideoPart
from smol_hf.data.records.dialogue import said
from smol_hf.data.records.fields import Fields, checked_text
from smol_hf.data.records.media import DOWNLOAD_FIRST, Media, media_parts
from smol_hf.data.records.prompts import PICTURE, VIDEO, drawn
from smol_hf.data.records.registry import Place, adapter

OTHER_SHAPES = ("conversations", "messages", "texts", "sentences")
# Columns of img2dataset: the image, in one of its formats; sizes, and hashes of the downloaded file.
DOWNLOADED = ("jpg", "png", "webp")
SIZES = ("width", "height", "original_width", "original_height")
HASHES = ("sha256", "md5", "sha512")
PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("instruction", "response"))


def is_caption_pair(record: dict[str, Any]) -> bool:
    """Return whether a record is an image and its caption, without a conversation."""
    has = {key for key, value in record.items() if value is not None}
    is_other = not has.isdisjoint(OTHER_SHAPES) or any(set(pair) <= has for pair in PAIRS)
    return "image" in has and not has.isdisjoint({"caption", "text"}) and not is_other


def is_url_pair(record: dict[str, Any]) -> bool:
    """Return whether a record is the URL of an image and its caption, without the image."""
    has = {key for key, value in record.items() if value is not None}
    return {"image_url", "caption"} <= has and has.isdisjoint({"image", *OTHER_SHAPES})


def is_download(record: dict[str, Any]) -> bool:
    """Return whether a record is a row of img2dataset's parquet files, which have a column of encoded images."""
    return {"url", "key", "status", "error_message"} <= set(record) and not set(record).isdisjoint(DOWNLOADED)


@adapter("captions", shape=is_caption_pair, fields=("image", "caption", "text"))
def read_captions(record: dict[str, Any], place: Place) -> Conversation:
    """Images with a caption each."""
    fields = Fields(record, place, "captions")
    caption = fields.text("text" if record.get("caption") is None and "text" in record else "caption")
    return captioned(one_image(fields.given("image"), "image", place), caption, place)


@adapter(
    "coco",
    datasets=("HuggingFaceM4/COCO",),
    shape=("sentences",),
    fields=("image", "filepath", "filename", "sentences"),
)
def read_coco(record: dict[str, Any], place: Place) -> Conversation:
    """Images with several captions each; one caption is used."""
    fields = Fields(record, place, "coco")
    caption = checked_text(
        drawn(captions_of(fields), place.where, "caption"), place.where, "the field 'sentences.raw'"
    )
    if record.get("image") is not None:
        return captioned(one_image(record["image"], "image", place), caption, place)
    return captioned(one_image(coco_path(fields), "filename", place), caption, place)


def captions_of(fields: Fields) -> list[Any]:
    """Return the captions in `sentences`: one object, a list of them, or one whose fields are lists."""
    if isinstance(fields.given("sentences"), list):
        captions = [each.given("raw") for each in fields.objects("sentences")]
    else:
        raw = fields.inside("sentences").given("raw")
        captions = raw if isinstance(raw, list) else [raw]
    if not captions:
        raise fields.fault("the field 'sentences' is empty: a caption is needed")
    return captions


def coco_path(fields: Fields) -> str:
    """Return the path of the image: `filepath` is the folder of `filename`, or already the complete path."""
    if all(fields.values.get(key) is None for key in ("filepath", "filename")):
        raise fields.lacking("'image', or 'filepath' and 'filename'")
    if fields.values.get("filename") is None:
        return fields.text("filepath")
    name = fields.text("filename")
    folder = fields.text("filepath") if fields.values.get("filepath") is not None else ""
    return folder if posixpath.basename(folder) == name else posixpath.join(folder, name)


@adapter(
    "conceptual_captions",
    datasets=("google-research-datasets/conceptual_captions",),
    shape=is_url_pair,
    fields=("image_url", "caption"),
)
def read_conceptual_captions(record: dict[str, Any], place: Place) -> Conversation:
    """Refuse the URL of an image and its caption, and say how to download the image."""
    fields = Fields(record, place, "conceptual_captions")
    url, _ = fields.text("image_url"), fields.text("caption")
    raise fields.fault(f"image_url is the URL {url!r}: {DOWNLOAD_FIRST}")


@adapter(
    "img2dataset",
    shape=is_download,
    fields=(*DOWNLOADED, "caption", "url", "key", "status", "error_message", "exif", *SIZES, *HASHES),
)
def read_download(record: dict[str, Any], place: Place) -> Conversation:
    """Rows of img2dataset's parquet files: an image or the reason why it is missing, and a caption."""
    fields = Fields(record, place, "img2dataset")
    if record["status"] != "success":
        raise FilteredOutError(place.where, f"img2dataset has no image: {record['status']}, {record['error_message']}")
    (key,) = [each for each in DOWNLOADED if each in record]
    return captioned(one_image(fields.given(key), key, place), fields.text("caption"), place)


def one_image(value: Any, key: str, place: Place) -> Media:
    """Return the single image of a caption."""
    return media_parts([value], key, ImagePart, place)[0]


def captioned(image: Media, caption: str, place: Place) -> Conversation:
    request = drawn(VIDEO if isinstance(image, VideoPart) else PICTURE, place.where, "request")
    return Conversation(place.where, (said("user", image, request), said("assistant", caption)))
