"""FineVision, The Cauldron and Docmatix."""

import io

import datasets
import pytest
from datasets import Dataset, List
from PIL import Image
from records import PLACE, assistant, check, conversation, fault_of, user, without

from smol_hf.data.conversation import ImagePart
from smol_hf.data.records import adapt

PNG, OTHER = ImagePart(content=b"png"), ImagePart(content=b"other")
FINEVISION = {
    "images": [{"bytes": b"png", "path": None}],
    "texts": [
        {"user": "What is <image>?", "assistant": "A placeholder."},
        {"user": "And this?", "assistant": "A cat."},
    ],
    "source": "docvqa",
    "relevance_ratings": [5, 2],
    "relevance_min": 2,
    "image_correspondence_ratings": [4, None],
    "image_correspondence_min": 4,
    "visual_dependency_ratings": [1, 3],
    "visual_dependency_min": 1,
    "formatting_ratings": None,
    "formatting_min": None,
}
RATED = [key for key in FINEVISION if key.endswith("_ratings")]
CAULDRON = {
    "images": [{"bytes": b"png", "path": "0.png"}, {"bytes": b"other", "path": None}],
    "texts": [
        {"user": "Compare.", "assistant": "Both are red.", "source": "NLVR2"},
        {"user": "Sure?", "assistant": "Yes.", "source": "NLVR2"},
    ],
}
DOCMATIX = {
    "images": [{"bytes": b"png", "path": None}, {"bytes": b"other", "path": None}],
    "texts": [{"user": "Who signs?", "assistant": "The mayor.", "source": "PDFA key: 16"}],
}


@pytest.mark.parametrize("dataset", ["HuggingFaceM4/FineVision", "huggingfacem4/finevision", None])
def test_finevision(dataset):
    expected = conversation(
        user(PNG, "What is <image>?"),
        assistant("A placeholder."),
        user("And this?"),
        assistant("A cat."),
        source="docvqa",
        turn_ratings=(
            {"relevance": 5, "image_correspondence": 4, "visual_dependency": 1},
            {"relevance": 2, "visual_dependency": 3},
        ),
    )
    check(FINEVISION, expected, dataset)


@pytest.mark.parametrize("images", [None, []])
def test_finevision_without_images(images):
    row = {"images": images, "texts": [{"user": "Hi", "assistant": "Hello."}], "source": "text_openhermes_2_5"}
    check(row, conversation(user("Hi"), assistant("Hello."), source="text_openhermes_2_5"), "HuggingFaceM4/FineVision")


@pytest.mark.parametrize("dataset", ["HuggingFaceM4/the_cauldron", None])
def test_the_cauldron(dataset):
    expected = conversation(
        user(PNG, OTHER, "Compare."), assistant("Both are red."), user("Sure?"), assistant("Yes."), source="NLVR2"
    )
    check(CAULDRON, expected, dataset)


@pytest.mark.parametrize("dataset", ["HuggingFaceM4/Docmatix", None])
def test_docmatix_with_several_pages(dataset):
    expected = conversation(user(PNG, OTHER, "Who signs?"), assistant("The mayor."), source="PDFA key: 16")
    check(DOCMATIX, expected, dataset)


@pytest.mark.parametrize("way", ["images", "texts", "texts[1].user", "texts[0].assistant"])
def test_a_missing_field_is_named(way):
    assert f"lacks the field '{way}' (of the texts shape)" in fault_of(without(FINEVISION, way), name="texts")


def test_an_image_alone_is_asked_about_without_words():
    row = {"images": [{"bytes": b"png", "path": None}], "texts": [{"user": "", "assistant": "A cat."}]}
    check(row, conversation(user(PNG), assistant("A cat.")))


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"texts": []}, "no user turn"),
        ({"texts": None, "images": None, **dict.fromkeys(RATED)}, "no assistant turn"),
        ({"texts": [{"user": 5, "assistant": "x"}]}, "'texts[0].user' must be text, not int"),
        ({"texts": [{"user": None, "assistant": "x"}]}, "'texts[0].user' (of the texts shape) is null"),
        ({"texts": [{"user": "x", "assistant": "\ud800"}]}, "'texts[0].assistant': half of a character at position 0"),
        ({"texts": {"user": "x", "assistant": "y"}}, "'texts' must be a list, not dict"),
        ({"texts": ["x"]}, "'texts[0]' must be an object, not str"),
        ({"images": [{"bytes": None, "path": None}]}, "must be the path of a file, or its bytes"),
        ({"images": [{"bytes": "png", "path": None}]}, "holds str as 'bytes'"),
        ({"images": [object()]}, "cast with decode=False"),
        ({"relevance_ratings": [5]}, "'relevance_ratings' must be a list of 2 ratings"),
        ({"relevance_ratings": [5, "good"]}, "'relevance_ratings' must hold whole numbers, not 'good'"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(change, problem):
    assert problem in fault_of({**FINEVISION, **change}, name="texts")


def test_rows_as_datasets_gives_them():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    rows = [
        {**FINEVISION, "images": [{"bytes": stream.getvalue(), "path": None}] * 2},
        {**FINEVISION, "images": None, "texts": FINEVISION["texts"][:1], **dict.fromkeys(RATED)},
    ]
    columns = Dataset.from_list(rows).cast_column("images", List(datasets.Image(decode=False)))
    several, none = (adapt(row, PLACE) for row in columns)
    assert several.images == [ImagePart(content=stream.getvalue())] * 2
    assert several.turn_ratings == adapt(FINEVISION, PLACE).turn_ratings
    assert none == conversation(user("What is <image>?"), assistant("A placeholder."), source="docvqa")
