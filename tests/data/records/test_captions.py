"""Pictures with a caption: plain pairs, COCO, Conceptual Captions."""

from collections import Counter

import pytest
from records import MEDIA, PLACE, assistant, check, conversation, fault_of, user, without

from smol_hf.data.conversation import ImagePart, SampleError, VideoPart
from smol_hf.data.records import Place, adapt
from smol_hf.data.records.prompts import PICTURE

PNG = ImagePart(content=b"png")
ASKED = "Describe this picture."
PAIR = {"image": {"bytes": b"png", "path": None}, "caption": "A red lamp."}
COCO = {
    "image": {"bytes": b"png", "path": "COCO_val2014_000000522418.jpg"},
    "filepath": "COCO_val2014_000000522418.jpg",
    "sentids": [681330, 686718],
    "filename": "COCO_val2014_000000522418.jpg",
    "imgid": 1,
    "split": "restval",
    "sentences": {"tokens": ["a", "cake"], "raw": "A cake.", "imgid": 1, "sentid": 681330},
    "cocoid": 522418,
}
SEVERAL = [{"tokens": [], "raw": f"Caption {number}.", "imgid": 1, "sentid": number} for number in range(5)]
CONCEPTUAL = {"image_url": "http://example.org/a.jpg", "caption": "A lamp."}


@pytest.mark.parametrize("key", ["caption", "text"])
def test_a_plain_pair(key):
    record = {"image": {"bytes": b"png", "path": None}, key: "A red lamp."}
    check(record, conversation(user(PNG, ASKED), assistant("A red lamp.")))
    check({**record, "text" if key == "caption" else "caption": None}, adapt(record, PLACE))


def test_of_caption_and_text_the_caption_is_taken():
    assert adapt({**PAIR, "text": "alt"}, PLACE) == adapt(PAIR, PLACE)


def test_a_video_with_a_caption_is_asked_about_as_one():
    read = adapt({"image": "v.mp4", "caption": "A dog runs."}, PLACE)
    assert read.messages[0].parts[0] == VideoPart(path=str(MEDIA / "v.mp4"))
    assert "video" in read.messages[0].parts[1].text


@pytest.mark.parametrize("dataset", ["HuggingFaceM4/COCO", None])
def test_coco(dataset):
    check(COCO, conversation(user(PNG, ASKED), assistant("A cake.")), dataset)


@pytest.mark.parametrize(
    "filepath, filename, path",
    [
        ("val2014", "1.jpg", "val2014/1.jpg"),
        ("val2014/1.jpg", "1.jpg", "val2014/1.jpg"),
        ("1.jpg", "1.jpg", "1.jpg"),
        (None, "1.jpg", "1.jpg"),
        ("val2014/1.jpg", None, "val2014/1.jpg"),
    ],
)
def test_coco_by_the_name_of_the_file(filepath, filename, path):
    record = {**COCO, "image": None, "filepath": filepath, "filename": filename}
    check(record, conversation(user(ImagePart(path=str(MEDIA / path)), ASKED), assistant("A cake.")))
    check({**without(record, "image"), "sentences": [COCO["sentences"]]}, adapt(record, PLACE))


def test_of_several_captions_the_name_of_the_sample_chooses():
    record = {**COCO, "sentences": SEVERAL}
    check(record, conversation(user(PNG, ASKED), assistant("Caption 3.")))
    columns = {**COCO, "sentences": {"raw": [each["raw"] for each in SEVERAL]}}
    assert adapt(columns, PLACE) == adapt(record, PLACE)
    chosen = Counter(adapt(record, Place(f"rows:{n}")).messages[1].parts[0].text for n in range(1000))
    assert len(chosen) == 5 and min(chosen.values()) > 150


@pytest.mark.parametrize("dataset", ["google-research-datasets/conceptual_captions", None])
def test_conceptual_captions_must_be_downloaded_first(dataset):
    for more in ({}, {"labels": ["lamp"], "confidence_scores": [0.9], "MIDs": ["/m/04"]}):
        problem = r"image_url is the URL 'http://example.org/a.jpg': download the images first with img2dataset, and"
        with pytest.raises(SampleError, match=problem):
            adapt({**CONCEPTUAL, **more}, PLACE, dataset=dataset)
    here = {**CONCEPTUAL, "image": {"bytes": b"png", "path": None}}
    assert adapt(here, PLACE).images == [PNG], "an image that the record holds needs no URL"


def test_the_request_depends_on_the_name_of_the_sample_alone():
    asked = Counter(adapt(PAIR, Place(f"rows:{n}")).messages[0].parts[1].text for n in range(1000))
    assert set(asked) == set(PICTURE) and min(asked.values()) > 150
    assert adapt(PAIR, Place("rows:7")).messages[0] == adapt(COCO, Place("rows:7")).messages[0]


def test_the_draws_of_a_sample_are_independent():
    record = {**COCO, "sentences": SEVERAL}
    read = [adapt(record, Place(f"rows:{n}")).messages for n in range(1000)]
    assert len({(asked.parts[1].text, answer.parts[0].text) for asked, answer in read}) == 25


def test_a_sample_may_stand_in_a_file_whose_name_is_no_text():
    assert adapt(PAIR, Place("\udcff.jsonl:1")).sample_id == "\udcff.jsonl:1"


@pytest.mark.parametrize(
    "record, name, way, named",
    [
        (PAIR, "captions", "image", "'image'"),
        (PAIR, "captions", "caption", "'caption'"),
        (COCO, "coco", "sentences", "'sentences'"),
        (COCO, "coco", "sentences.raw", "'sentences.raw'"),
        ({"sentences": COCO["sentences"], "image": 0}, "coco", "image", "'image', or 'filepath' and 'filename'"),
        ({**COCO, "sentences": [{"raw": "x"}]}, "coco", "sentences[0].raw", "'sentences[0].raw'"),
        (CONCEPTUAL, "conceptual_captions", "image_url", "'image_url'"),
        (CONCEPTUAL, "conceptual_captions", "caption", "'caption'"),
    ],
)
def test_a_missing_field_is_named(record, name, way, named):
    assert f"lacks the field {named} (of the {name} shape)" in fault_of(without(record, way), name=name)


@pytest.mark.parametrize(
    "record, problem",
    [
        ({**PAIR, "caption": ["x"]}, "'caption' must be text, not list"),
        ({**PAIR, "image": []}, "image holds []: it must be the path of a file"),
        ({**COCO, "sentences": []}, "'sentences' is empty"),
        ({**COCO, "sentences": [5]}, "'sentences[0]' must be an object, not int"),
        ({**COCO, "sentences": {"raw": 5}}, "'sentences.raw' must be text, not int"),
    ],
)
def test_what_cannot_be_used_is_refused(record, problem):
    assert problem in fault_of(record)
