"""Prepared videos: read back with the same frames and times."""

import json

import pytest
from prepared_turns import BLUE, PHOTO, RED, assistant, content_of, data_of, read, shows, user
from video_clips import clip

from smol_hf.commands.main import main
from smol_hf.data.conversation import ImagePart, TextPart, VideoPart
from smol_hf.data.media.videos import ListedVideo, load_frames
from smol_hf.data.prepare import prepare
from smol_hf.processing.video_sampling import VideoSampling


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos of each kind, by name: files, bytes, a part, and frames that are images."""
    folder = tmp_path_factory.mktemp("videos")
    content = clip([0, 0.1, 0.4, 1.0])
    (folder / "a.mp4").write_bytes(content)
    (folder / "frames").mkdir()
    for name, image in (("2.5.png", RED), ("03.75.jpg", PHOTO), ("12.png", BLUE)):
        (folder / "frames" / name).write_bytes(image)
    path = str(folder / "a.mp4")
    return {
        "file": VideoPart(path=path),
        "bytes": VideoPart(content=clip([0, 0.2], "matroska")),
        "part": VideoPart(path=path, start=0.1, end=0.5),
        "folder": VideoPart(path=str(folder / "frames"), start=0.5),
        "frames": VideoPart(frames=(RED, PHOTO), times=(0.25, 1 / 3)),
    }


def seen(conversation):
    """The roles and texts of a conversation, with the times and pixels of its images and videos."""
    return [(each.role, *map(seen_part, each.parts)) for each in conversation.messages]


def seen_part(part):
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, ImagePart):
        return content_of(part).content
    chosen = ListedVideo(part, "here").choose(VideoSampling(fps=10, max_frames=8))
    return chosen.times, chosen.duration, [each.tobytes() for each in load_frames(part, chosen, "here")]


@pytest.mark.parametrize(
    "form, names",
    [
        ("parquet", ["file"]),
        ("parquet", ["bytes", "part"]),
        *(("llava", [name]) for name in ("file", "bytes", "part", "folder", "frames")),
        ("llava", ["file", "file", "part"]),
    ],
)
def test_a_run_sees_the_same_frames_of_prepared_videos(form, names, videos, tmp_path):
    shown = [videos[name] for name in names]
    turns = [
        (user(*shown, "What?"), assistant("x")),
        (user(shows(RED), "and", shown[0], "here <video>", shows(BLUE)), assistant("y")),
        (user("Before", shown[0]), assistant("z")),
    ]
    data = data_of(turns)
    facts = prepare(data, tmp_path / "out", form=form)
    back = read(tmp_path / "out" / "data.jsonl" if form == "llava" else tmp_path / "out")
    assert [seen(each) for each in back] == [seen(each) for each in data.conversations()]
    (source,) = facts["sources"]
    files = len({"file" if name == "part" else name for name in names})
    assert (source["written"], source["videos"]) == (3, files if form == "llava" else len(names) + 2)
    if form == "llava":
        assert len(list((tmp_path / "out" / "videos").iterdir())) == files


@pytest.mark.parametrize("name", ["folder", "frames"])
def test_frames_that_are_images_have_no_place_in_parquet(name, videos, tmp_path):
    with pytest.raises(ValueError, match=r"pages:1: shows a video whose frames are images, .*choose --format llava"):
        prepare(data_of([(user(videos[name], "?"), assistant("x"))]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_videos_outside_the_folder_are_copied_only_when_it_is_allowed(videos, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"video": videos["file"].path, "question": "What?", "answer": "x"}) + "\n")
    command = ["data", "prepare", str(rows), "--output", str(tmp_path / "out")]
    assert main(command) == 1
    message = capsys.readouterr().err
    assert "rows.jsonl:1: the video " in message and "allow such videos with --allow-outside" in message
    assert main([*command, "--allow-outside"]) == 0
    assert "videos" in capsys.readouterr().out
