"""Where the files of a record may lie."""

from pathlib import Path

import pytest
from records import MEDIA, PLACE, fault_of

from smol_hf.data.conversation import ImagePart
from smol_hf.data.records import Place, adapt

INSIDE = Place("rows:1", MEDIA, inside_only=True)
NO_FOLDER = Place("rows:1")
VIDEO_178K, VISTA = "lmms-lab/LLaVA-Video-178K", "TIGER-Lab/VISTA-400K"


def llava(placeholders="<image>", **media):
    answer = {"from": "gpt", "value": "Yes."}
    return {**media, "conversations": [{"from": "human", "value": placeholders}, answer]}


def messages(content, **media):
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "y"}], **media}


# The same path in every shape that names files: (dataset, record of a path).
SHAPES = {
    "llava": (None, lambda path: llava(image=path)),
    "llava, list": (None, lambda path: llava("<image><image>", image=[b"png", path])),
    "llava, undecoded column": (None, lambda path: llava(image={"bytes": None, "path": path})),
    "llava, video": (None, lambda path: llava(video=path)),
    "LLaVA-Video": (VIDEO_178K, lambda path: llava(video=path, data_source="d")),
    "VISTA": (VISTA, lambda path: llava("", image=path)),
    "messages": (None, lambda path: messages("x", images=[path])),
    "typed part": (None, lambda path: messages([{"type": "video", "video": path}])),
    "texts": (None, lambda path: {"images": [path], "texts": [{"user": "x", "assistant": "y"}]}),
    "captions": (None, lambda path: {"image": path, "caption": "x"}),
    "coco": (None, lambda path: {"filename": path, "sentences": {"raw": "x"}}),
    "finevideo": (None, lambda path: {"mp4": path, "json": {}}),
    "sharegpt4video": (None, lambda path: {"video_path": path, "captions": [{"idx": "-1", "content": "x"}]}),
    "moviechat": (None, lambda path: {"info": {"video_path": path}, "global": []}),
}
LEAVING = ["../x", "/etc/passwd", "a/../../x", "..", "//etc/passwd", "./../x", "a/b/../../../x"]


@pytest.mark.parametrize("path", LEAVING)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_path_cannot_leave_the_folder(shape, path):
    dataset, record = SHAPES[shape]
    if shape == "LLaVA-Video" and not path.startswith("/"):
        path = f"../{path}"  # the folder of its source may be left, the folder of media may not
    assert "outside the folder of media" in fault_of(record(path), INSIDE, dataset=dataset)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_path_that_is_none_is_refused(shape):
    dataset, record = SHAPES[shape]
    not_text = "half of a character" if shape == "coco" else "cannot be a path"
    for path, problem in {
        "a\0.png": "cannot be a path",
        "\ud800.png": not_text,
        "https://example.org/\ud800": not_text,
        "file:///etc/passwd": "is the URL",
        "FILE:///etc/passwd": "is the URL",
        "http://169.254.169.254/x.png": "is the URL",
    }.items():
        for place in (PLACE, INSIDE, NO_FOLDER):
            found = fault_of(record(path), place, dataset=dataset)
            assert problem in found and found.isprintable()


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_folder_only_bytes_will_do(shape):
    dataset, record = SHAPES[shape]
    assert "the record must hold its bytes" in fault_of(record("a.png"), NO_FOLDER, dataset=dataset)


def test_the_path_beside_bytes_is_not_looked_at():
    for content in (b"png", b""):
        for place in (PLACE, INSIDE, NO_FOLDER):
            [image] = adapt({"image": {"bytes": content, "path": "/etc/passwd"}, "caption": "x"}, place).images
            assert image == ImagePart(content=content)


@pytest.mark.parametrize(
    "folder, name", [("..", "x.mp4"), ("d/../../d", "x.mp4"), ("/etc", "passwd"), ("d", "/etc/passwd"), ("../..", "m")]
)
def test_neither_part_of_a_path_may_lead_out(folder, name):
    record = llava(video=name, data_source=folder)
    assert "outside the folder of media" in fault_of(record, INSIDE, dataset=VIDEO_178K)


@pytest.mark.parametrize("video_id, clip_id", [("..", "x"), ("../..", "x"), ("/etc", "x"), ("v", "../../x")])
def test_the_names_of_clips_may_not_lead_out(video_id, clip_id):
    record = {"video_id": video_id, "clip_id": clip_id, "caption": {"content": "x"}}
    assert "outside the folder of media" in fault_of(record, INSIDE)


@pytest.mark.parametrize(
    "path, inside",
    [
        ("a/b.png", "a/b.png"),
        ("./a.png", "a.png"),
        ("a/../b.png", "b.png"),
        ("..a/b.png", "..a/b.png"),
        ("a..png", "a..png"),
        ("~/b.png", "~/b.png"),
    ],
)
def test_what_stays_inside_is_read_and_what_was_checked_is_what_is_opened(path, inside):
    [image] = adapt(llava(image=path), INSIDE).images
    assert image.path == str(MEDIA / inside)


def test_a_users_own_file_may_name_any_path():
    for path in ("/data/a.png", "../a.png"):
        [image] = adapt(llava(image=path), PLACE).images
        assert image.path == str(Path(MEDIA, path))
