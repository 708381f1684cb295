"""Every dataset in LLaVA's shape, and what a user's file in it may hold."""

import pytest
from records import MEDIA, PLACE, assistant, check, conversation, fault_of, user, without

from smol_hf.data.conversation import ImagePart, VideoPart
from smol_hf.data.records import adapt


def turns(question, answer="Yes."):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def image(name):
    return ImagePart(path=str(MEDIA / name))


def video(name):
    return VideoPart(path=str(MEDIA / name))


ONEVISION = {
    "id": "ureader-1",
    "image": {"bytes": b"png", "path": "1.png"},
    "conversations": turns("<image>\nIs it red?"),
    "data_source": "ureader_cap",
}
MAMMOTH_SEVERAL = {
    "id": 7,
    "image": ["a/1.jpg", "a/2.jpg"],
    "video": None,
    "conversations": turns("<image><image>\nThe same?"),
    "source": "M4-Instruct",
}
MAMMOTH_VIDEO = {
    "id": "v-3",
    "image": None,
    "video": "shard_1/v.mp4",
    "conversations": turns("<video>\nWho runs?", "A dog."),
    "source": "LLaVA-Video",
}
MAMMOTH_TEXT = {"id": 8, "image": None, "video": None, "conversations": turns("2 + 2?", "4"), "source": "math"}
M4 = {
    "sample_id": 12,
    "image": ["dreamsim/1.png", "dreamsim/2.png"],
    "conversations": turns("Left: <image>\nRight: <image>\nWhich one?", "Left."),
    "metadata": {"dataset": "dreamsim", "split": "train", "num_sample": 3},
    "choice_list": ["Left.", "Right."],
}
LLAVA_VIDEO = {
    "id": "v_1",
    "conversations": turns("<image>\nWhat happens?", "A goal."),
    "data_source": "0_30_s_academic_v0_1",
    "video": "academic_source/activitynet/v_1.mp4",
}
INSTRUCT = {"id": "000000033471", "image": "coco/1.jpg", "conversations": turns("What colour?\n<image>", "Red.")}
MIX_TEXT = {"id": "wgByO4Y_0", "conversations": turns("Which tag plays a film?", "<video> in HTML, <image> in SVG.")}
RECAP = {
    "id": "1",
    "image": {"bytes": b"png", "path": None},
    "conversations": turns("<image>\nDescribe it."),
    "data_source": "blip558k",
}
VISTA = {"image": "two_needle/v.mp4", "conversations": turns("Where is the hat?", "On the table.")}
STAR = {
    "video": "kinetics700/v.mp4",
    "conversations": turns("What is done?", "Diving."),
    "label": {"action": "diving"},
    "label_type": ["action"],
    "qa_type": "cot",
}
YES = assistant("Yes.")

GOLDEN = {
    "OneVision": (
        "lmms-lab/LLaVA-OneVision-Data",
        ONEVISION,
        conversation(user(ImagePart(content=b"png"), "Is it red?"), YES, source="ureader_cap"),
    ),
    "OneVision, no image": (
        "lmms-lab/LLaVA-OneVision-Data",
        {**ONEVISION, "image": None, "conversations": turns("Is 2 even?")},
        conversation(user("Is 2 even?"), YES, source="ureader_cap"),
    ),
    "MAmmoTH, several images": (
        "MAmmoTH-VL/MAmmoTH-VL-Instruct-12M",
        MAMMOTH_SEVERAL,
        conversation(user(image("a/1.jpg"), image("a/2.jpg"), "The same?"), YES, source="M4-Instruct"),
    ),
    "MAmmoTH, one image": (
        "MAmmoTH-VL/MAmmoTH-VL-Instruct-12M",
        {"id": "s", "image": "a/1.jpg", "conversations": turns("<image>\nRed?"), "source": "coco"},
        conversation(user(image("a/1.jpg"), "Red?"), YES, source="coco"),
    ),
    "MAmmoTH, video": (
        "MAmmoTH-VL/MAmmoTH-VL-Instruct-12M",
        MAMMOTH_VIDEO,
        conversation(user(video("shard_1/v.mp4"), "Who runs?"), assistant("A dog."), source="LLaVA-Video"),
    ),
    "MAmmoTH, text": (
        "MAmmoTH-VL/MAmmoTH-VL-Instruct-12M",
        MAMMOTH_TEXT,
        conversation(user("2 + 2?"), assistant("4"), source="math"),
    ),
    "M4": (
        "lmms-lab/M4-Instruct-Data",
        M4,
        conversation(
            user("Left: ", image("dreamsim/1.png"), "Right: ", image("dreamsim/2.png"), "Which one?"),
            assistant("Left."),
            source="dreamsim",
        ),
    ),
    "Instruct-150K": (
        "liuhaotian/LLaVA-Instruct-150K",
        INSTRUCT,
        conversation(user("What colour?", image("coco/1.jpg")), assistant("Red.")),
    ),
    "mix665k, text": (
        "liuhaotian/LLaVA-Instruct-150K",
        MIX_TEXT,
        conversation(user("Which tag plays a film?"), assistant("<video> in HTML, <image> in SVG.")),
    ),
    "ShareGPT4V": (
        "Lin-Chen/ShareGPT4V",
        INSTRUCT,
        conversation(user("What colour?", image("coco/1.jpg")), assistant("Red.")),
    ),
    "Pretrain": (
        "liuhaotian/LLaVA-Pretrain",
        {"id": "004539375", "image": "00453/004539375.jpg", "conversations": turns("<image>\nName it.", "A lamp.")},
        conversation(user(image("00453/004539375.jpg"), "Name it."), assistant("A lamp.")),
    ),
    "ReCap": (
        "lmms-lab/LLaVA-ReCap-558K",
        RECAP,
        conversation(user(ImagePart(content=b"png"), "Describe it."), YES, source="blip558k"),
    ),
}


@pytest.mark.parametrize("detected", [False, True])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name, detected):
    dataset, record, expected = GOLDEN[name]
    check(record, expected, None if detected else dataset)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "id" in GOLDEN[name][1]])
@pytest.mark.parametrize("identity", [5, None, "missing"])
def test_the_id_of_a_record_may_be_anything(name, identity):
    dataset, record, expected = GOLDEN[name]
    record = {**record, "id": identity} if identity != "missing" else without(record, "id")
    check(record, expected, dataset)


def test_llava_video_178k():
    film = video("0_30_s_academic_v0_1/academic_source/activitynet/v_1.mp4")
    expected = conversation(user(film, "What happens?"), assistant("A goal."), source="0_30_s_academic_v0_1")
    check(LLAVA_VIDEO, expected, "lmms-lab/LLaVA-Video-178K")
    check(without(LLAVA_VIDEO, "id"), expected, "lmms-lab/LLaVA-Video-178K")
    several = {**LLAVA_VIDEO, "video": ["1.mp4", "2.mp4"], "conversations": turns("<image>\n<video>\nSame?")}
    folder = "0_30_s_academic_v0_1"
    pair = user(video(f"{folder}/1.mp4"), video(f"{folder}/2.mp4"), "Same?")
    check(several, conversation(pair, YES, source=folder), "lmms-lab/LLaVA-Video-178K")


def test_vista_400k():
    expected = conversation(user(video("two_needle/v.mp4"), "Where is the hat?"), assistant("On the table."))
    check(VISTA, expected, "TIGER-Lab/VISTA-400K")
    marked = {**VISTA, "conversations": turns("Where?\n<video>", "Here.")}
    check(marked, conversation(user("Where?", video("two_needle/v.mp4")), assistant("Here.")), "TIGER-Lab/VISTA-400K")


@pytest.mark.parametrize("key", ["video", "image"])
def test_video_star(key):
    record = {**without(STAR, "video"), key: "kinetics700/v.mp4"}
    expected = conversation(user(video("kinetics700/v.mp4"), "What is done?"), assistant("Diving."))
    check(record, expected, "orrzohar/Video-STaR")
    marked = {**record, "conversations": turns("<video>\nWhat is done?", "Diving.")}
    check(marked, expected, "orrzohar/Video-STaR")


def test_media_without_placeholders_are_forgiven_only_where_the_dataset_is_known_for_it():
    for record in (VISTA, STAR):
        assert "0 <image> or <video> placeholders but 1 images or videos" in fault_of(record)
        assert fault_of(record, dataset="lmms-lab/M4-Instruct-Data") == fault_of(record)


@pytest.mark.parametrize(
    "dataset, record, way, named",
    [
        ("lmms-lab/LLaVA-OneVision-Data", ONEVISION, "conversations", "conversations"),
        ("MAmmoTH-VL/MAmmoTH-VL-Instruct-12M", MAMMOTH_SEVERAL, "conversations", "conversations"),
        ("lmms-lab/M4-Instruct-Data", M4, "conversations", "conversations"),
        ("liuhaotian/LLaVA-Instruct-150K", INSTRUCT, "conversations", "conversations"),
        ("liuhaotian/LLaVA-Pretrain", INSTRUCT, "conversations", "conversations"),
        ("lmms-lab/LLaVA-ReCap-558K", RECAP, "conversations", "conversations"),
        ("Lin-Chen/ShareGPT4V", INSTRUCT, "conversations", "conversations"),
        ("TIGER-Lab/VISTA-400K", VISTA, "conversations", "conversations"),
        ("orrzohar/Video-STaR", STAR, "conversations", "conversations"),
        ("lmms-lab/LLaVA-Video-178K", LLAVA_VIDEO, "conversations", "conversations"),
        ("lmms-lab/LLaVA-Video-178K", LLAVA_VIDEO, "video", "video"),
        ("lmms-lab/LLaVA-Video-178K", LLAVA_VIDEO, "data_source", "data_source"),
        ("TIGER-Lab/VISTA-400K", VISTA, "image", "image"),
        ("orrzohar/Video-STaR", STAR, "video", "video"),
        ("liuhaotian/LLaVA-Instruct-150K", INSTRUCT, "conversations[0].from", "from"),
        ("liuhaotian/LLaVA-Instruct-150K", INSTRUCT, "conversations[1].value", "value"),
    ],
)
def test_a_missing_field_is_named(dataset, record, way, named):
    problem = fault_of(without(record, way), dataset=dataset)
    assert "lacks the" in problem and f"'{named}'" in problem.split("; it has")[0]


def test_an_image_that_is_missing_leaves_its_placeholder_alone():
    assert "1 <image> placeholders but 0 images:" in fault_of(without(INSTRUCT, "image"))


@pytest.mark.parametrize(
    "record, expected",
    [
        (
            {"image": "a.png", "video": "b.mp4", "conversations": turns("<video>\nthen\n<image>")},
            user(video("b.mp4"), "then", image("a.png")),
        ),
        (
            {"images": ["a.png", "B.MP4"], "conversations": turns("<image> <video>")},
            user(image("a.png"), " ", video("B.MP4")),
        ),
        ({"image": b"png", "conversations": turns("<image>")}, user(ImagePart(content=b"png"))),
        ({"video": {"bytes": b"mp4"}, "conversations": turns("<video>")}, user(VideoPart(content=b"mp4"))),
        ({"video": "frames.gif", "conversations": turns("<video>")}, user(video("frames.gif"))),
        ({"image": "a.png", "conversations": turns("<image> and <video>")}, user(image("a.png"), " and <video>")),
        ({"conversations": turns("What is <video>?")}, user("What is <video>?")),
    ],
)
def test_where_media_stand(record, expected):
    check(record, conversation(expected, YES))


@pytest.mark.parametrize(
    "record, problem",
    [
        ({"video": None, "conversations": turns("<video>")}, "1 <image> or <video> placeholders but 0 images or"),
        (
            {"image": "a.png", "video": "b.mp4", "conversations": turns("<image><image>")},
            "2 <image> placeholders but 1 images",
        ),
        ({"image": "a.png", "video": "b.mp4", "conversations": turns("<image>")}, "0 <video> placeholders but 1"),
        ({"video": ["b.mp4"], "videos": ["b.mp4"], "conversations": turns("")}, "under 'video' and under 'videos'"),
        ({"video": "https://example.org/b.mp4", "conversations": turns("<video>")}, "download it"),
        ({"video": 5, "conversations": turns("<video>")}, "video holds 5: it must be the path of a file"),
        ({"conversations": [{"from": "human", "value": None}]}, "message 1: 'value' must be text, not NoneType"),
        ({"conversations": "hi"}, "must be a list of objects"),
    ],
)
def test_what_does_not_fit_together_is_refused(record, problem):
    assert problem in fault_of(record)


def test_placeholders_in_answers_and_system_prompts_are_text():
    record = {
        "image": "a.png",
        "conversations": [{"from": "system", "value": "Look at <image>."}, *turns("<image>\nWhat?", "An <image>.")],
    }
    read = adapt(record, PLACE)
    assert [message.role for message in read.messages] == ["system", "user", "assistant"]
    assert read.messages[0].parts[0].text == "Look at <image>."
    assert read.messages[2].parts[0].text == "An <image>."


@pytest.mark.parametrize("source", [5, None, {"page": 1}, "", "two\nlines"])
def test_a_label_that_is_none_is_no_fault(source):
    assert adapt({**MIX_TEXT, "source": source, "metadata": source}, PLACE).source == ""
