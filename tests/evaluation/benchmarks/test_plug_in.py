"""The plug-in of lmms-eval, without lmms-eval: batches, videos, prompts that are too long, and random choices."""

import importlib
import json
import random
import sys
from types import SimpleNamespace

import pytest
import torch
from evaluation.benchmarks import stub_lmms_eval
from evaluation.benchmarks.local_tasks import media_rows
from helpers import build_model, build_processor
from modeling.builders import randomise
from PIL import Image

from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling
from smol_hf.publishing.checkpoint import publish_checkpoint

MODULE = "smol_hf.evaluation.benchmarks.lmms_eval_model"


@pytest.fixture
def plug_in(monkeypatch):
    for name, module in stub_lmms_eval.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    processor = build_processor()
    model = randomise(build_model(processor), scale=0.3)
    model.config.text_config.max_position_embeddings = 512
    return publish_checkpoint(tmp_path_factory.mktemp("vlm") / "checkpoint", model, processor)


def messages_of(document):
    images = [{"type": "image", "url": Image.open(path).convert("RGB")} for path in document["images"]]
    videos = [{"type": "video", "url": path} for path in document["videos"]]
    return [{"role": "user", "content": [*images, *videos, {"type": "text", "text": document["prompt"]}]}]


def answers_of(model, documents, task="task", options=None):
    model.task_dict = {task: {"test": documents}}
    options = options or {"max_new_tokens": 6}
    return model.generate_until(
        [SimpleNamespace(args=("", messages_of, options, index, task, "test")) for index in range(len(documents))]
    )


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_of_generate(tmp_path, plug_in, checkpoint, batch_size):
    rows = media_rows(tmp_path)
    generator = Generator(*load_checkpoint(checkpoint, device="cpu"), Sampling(max_new_tokens=6))
    prompts = [Prompt(row["prompt"], tuple(row["images"]), tuple(row["videos"])) for row in rows]
    model = plug_in.CheckpointModel(str(checkpoint), device="cpu", batch_size=batch_size)
    assert answers_of(model, rows) == [answer.text.strip() for answer in generator.answers(prompts)]
    assert model.counts == {"answers": len(rows), "too_long": 0, "random_choices": 0}


def test_a_prompt_that_is_too_long_has_an_empty_answer(tmp_path, plug_in, checkpoint, monkeypatch):
    monkeypatch.setenv("SMOL_HF_BENCHMARK_COUNTS", str(tmp_path / "counts.json"))
    rows = media_rows(tmp_path)[:3]
    model = plug_in.CheckpointModel(str(checkpoint), device="cpu", batch_size=3)
    wanted = answers_of(model, rows)
    longer = [rows[0], {**rows[1], "prompt": "too long " * 600}, rows[2]]
    assert answers_of(model, longer) == [wanted[0], "", wanted[2]]
    assert json.loads((tmp_path / "counts.json").read_text()) == {"answers": 6, "too_long": 1, "random_choices": 0}


def test_an_answer_ends_before_a_stop_string(tmp_path, plug_in, checkpoint):
    rows = media_rows(tmp_path)[:1]
    model = plug_in.CheckpointModel(str(checkpoint), device="cpu")
    (whole,) = answers_of(model, rows)
    cut = answers_of(model, rows, options={"max_new_tokens": 6, "until": [whole[1]]})
    assert cut == [whole[: whole.index(whole[1])].strip()]


def test_many_images_are_a_video(plug_in):
    images = [{"type": "image", "url": index} for index in range(17)]
    question = {"type": "text", "text": "What happens?"}
    (message,) = plug_in.chat_messages(stub_lmms_eval.ChatMessages([{"role": "user", "content": [*images, question]}]))
    assert message == {"role": "user", "content": [{"type": "video", "video": list(range(17))}, question]}
    (message,) = plug_in.chat_messages(
        stub_lmms_eval.ChatMessages([{"role": "user", "content": [*images[:16], question]}])
    )
    assert [part["type"] for part in message["content"]] == ["image"] * 16 + ["text"]


def test_a_part_of_a_video_and_audio(plug_in):
    part = stub_lmms_eval.part_of("video", url="clip.mp4", start_time=1.5)
    assert plug_in.chat_part(part) == {"type": "video", "video": "clip.mp4", "start": 1.5}
    with pytest.raises(ValueError, match="no audio input"):
        plug_in.chat_part(stub_lmms_eval.part_of("audio", url="a.wav"))


def test_random_choices_are_counted_without_drawing(tmp_path, plug_in, checkpoint):
    row = {"question_type": "multiple-choice", "options": "['one', 'two']"}
    rows = [{**each, **row} for each in media_rows(tmp_path)]
    rows[-1]["question_type"] = "open"
    model = plug_in.CheckpointModel(str(checkpoint), device="cpu")
    state = random.getstate()
    answers = answers_of(model, rows, task="mmmu_val")
    assert random.getstate() == state
    assert model.counts["random_choices"] == sum("A" not in each and "B" not in each for each in answers[:-1]) > 0


def test_the_manifest_names_the_class(plug_in):
    module, _, name = plug_in.manifest.chat_class_path.rpartition(".")
    assert (module, plug_in.manifest.model_id) == (MODULE, "smol_hf")
    assert getattr(plug_in, name) is plug_in.CheckpointModel
