"""Images within a record: base64, `data:` URLs, OpenAI's parts; and the ways to say that there is none."""

import base64
import io

import pytest
from PIL import Image

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.data.records.registry import Place, adapt

PLACE = Place("rows.jsonl:1", "media")
TALK = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A page."}]


def encoded(kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (250, 10, 10)).save(stream, kind)
    return stream.getvalue()


def in_base64(kind="PNG"):
    return base64.b64encode(encoded(kind)).decode()


def images(record):
    return adapt(record, PLACE).images


def with_part(part):
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}, TALK[1]]}


WAYS = {
    "base64": lambda kind: in_base64(kind),
    "lines of base64": lambda kind: "\n".join(in_base64(kind)[at : at + 76] for at in range(0, 10**5, 76)).strip(),
    "data URL": lambda kind: f"data:image/{kind.lower()};base64,{in_base64(kind)}",
    "bytes in base64": lambda kind: {"bytes": in_base64(kind), "path": None},
    "bytes": lambda kind: {"bytes": encoded(kind), "path": "page.png"},
    "mapping": lambda kind: {"url": f"data:image/{kind.lower()};base64,{in_base64(kind)}", "detail": None},
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("way", WAYS)
def test_an_image_stands_in_the_record_itself(way, kind):
    value, expected = WAYS[way](kind), [ImagePart(content=encoded(kind))]
    assert images({"image": value, "conversations": llava("<image>\nWhat?")}) == expected
    assert images({"images": [value, value], "messages": TALK}) == expected * 2
    assert images(with_part({"type": "image", "image": value})) == expected


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{in_base64()}"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{in_base64()}"},
        {"type": "image", "base64": in_base64()},
        {"type": "image", "url": f"data:image/png;base64,{in_base64()}", "image": None},
    ],
)
def test_parts_of_messages_hold_images(part):
    assert images(with_part(part)) == [ImagePart(content=encoded())]


@pytest.mark.parametrize("value", [{"url": "page.png"}, {"url": f"data:image/png;base64,{in_base64()}"}])
def test_the_detail_of_an_image_is_ignored_and_reported(value):
    hinted = {**value, "detail": "low"}
    expected = images(with_part({"type": "image_url", "image_url": value}))
    for key in ("image", "image_url"):
        record = with_part({"type": key, key: hinted})
        assert images(record) == expected
        assert adapt(record, PLACE).ignored == (f"messages[].content[].{key}.detail",)
    assert images({"image": hinted, "conversations": llava("<image>\nWhat?")}) == expected
    with pytest.raises(SampleError, match="must be the path of a file"):
        images(with_part({"type": "image_url", "image_url": {**value, "crop": "left"}}))


def llava(question):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "A page."}]


@pytest.mark.parametrize(
    "nothing",
    [None, "", [], {}, {"bytes": None}, {"bytes": None, "path": None}, {"bytes": b"", "path": ""}, [None], [""]],
)
def test_there_are_several_ways_to_say_that_there_is_no_image(nothing):
    for key in ("image", "images"):
        assert images({key: nothing, "conversations": llava("What?")}) == []
        assert images({key: nothing, "messages": TALK}) == []


def test_what_a_missing_image_was_to_show_is_still_an_error():
    with pytest.raises(SampleError, match=r"rows\.jsonl:1"):
        images({"image": "", "conversations": llava("<image>\nWhat?")})


@pytest.mark.parametrize("path", ["page.png", "/9j/page.jpg", "Qk/page", "AAAA/" + "b" * 70 + "/page.png"])
def test_paths_stay_paths(path):
    (image,) = images({"image": path, "conversations": llava("<image>\nWhat?")})
    assert image.content is None and image.path.endswith(path)


def test_a_damaged_data_url_is_named():
    with pytest.raises(SampleError, match=r"rows\.jsonl:1: image is a data: URL whose base64 is damaged"):
        images({"image": "data:image/png;base64,iVBOR", "conversations": llava("<image>\nWhat?")})
