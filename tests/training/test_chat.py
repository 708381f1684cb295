"""A language model alone learns conversations by heart, and answers them from the folder that it was published in."""

import json

import pytest
import torch
from chat_models import save_base, written
from transformers import AutoModelForCausalLM, AutoTokenizer

from smol_hf import train
from smol_hf.commands.main import main as smol_hf
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.chat import Chat
from smol_hf.training.log.console import read_log
from smol_hf.training.model.chat_template import CHATML, TURN_TOKENS
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.run import train as run_recipe

TALKS = [
    [("user", "What is the sky?"), ("assistant", "Blue.")],
    [("user", "Who are you?"), ("assistant", "A model."), ("user", "Large?"), ("assistant", "Tiny.")],
    [("system", "Shout."), ("user", "Who are you?"), ("assistant", "NOBODY!")],
]


def records(*talks):
    return "".join(
        json.dumps({"messages": [{"role": role, "content": text} for role, text in talk]}) + "\n" for talk in talks
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "chat.jsonl"
    path.write_text(records(*TALKS), encoding="utf-8")
    return path


def command_line(data, output, **keys):
    recipe = {
        **({"data": data} if "documents" not in keys else {}), "output_dir": output, "max_steps": 60,
        "learning_rate": 1e-2, "logging_steps": 20, "seed": 0, "per_device_train_batch_size": 3, "use_cpu": True,
        "save_strategy": "no", **keys,
    }  # fmt: skip
    return [word for key, value in recipe.items() for word in (f"--{key}", written(value))]


def answers(checkpoint):
    """What a published model says in each talk, the endings of what it says included."""
    model, tokenizer = load_checkpoint(checkpoint, device="cpu")
    said = []
    for talk in TALKS:
        chat = Chat(model, tokenizer, max_new_tokens=20)
        for role, text in talk:
            if role == "system":
                chat.messages.append({"role": role, "content": text})
            if role == "user":
                said.append(("".join(chat.say(text)), chat.last.finish_reason))
    return said


EXPECTED = [(text, "end") for talk in TALKS for role, text in talk if role == "assistant"]


@pytest.mark.parametrize("kind", ["native", "ours"])
def test_what_was_learned_by_heart_is_answered_by_the_published_checkpoint(kind, data, tmp_path, capfd):
    base = save_base(tmp_path / "base", kind)
    assert train.main(command_line(data, tmp_path / "run", model=base, chat_template="chatml")) == 0
    printed = capfd.readouterr().out
    assert "<|im_start|>assistant↵⟦Blue.<|im_end|>⟧" in printed
    assert "Shout.<|im_end|>↵" in printed and "⟦A model.<|im_end|>⟧" in printed and "⟦Tiny.<|im_end|>⟧" in printed
    checkpoint = tmp_path / "run" / "checkpoint"
    assert answers(checkpoint) == EXPECTED
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.chat_template == CHATML and tokenizer.eos_token == "<|im_end|>"
    ends = model.generation_config.eos_token_id
    assert ends == [tokenizer.convert_tokens_to_ids("<|im_end|>"), 0] and model.config.eos_token_id == ends[0]
    assert "apply_chat_template" in (checkpoint / "README.md").read_text(encoding="utf-8")
    loss = [entry["loss"] for entry in read_log(tmp_path / "run") if "loss" in entry]
    assert loss[-1] < 0.1 < loss[0]


def test_plain_texts_are_trained_beside_conversations(data, tmp_path):
    base = save_base(tmp_path / "base")
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Once there was a king."}\n' * 3, encoding="utf-8")
    mixture = json.dumps([{"data": str(data)}, {"data": str(texts), "name": "texts"}])
    keys = {"model": base, "max_steps": 1, "sample_packing": True, "mixture": mixture, "eval_mixture": mixture}
    _, _, *line = command_line(data, tmp_path / "run", **keys, chat_template="chatml")  # without --data
    assert train.main(line) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["validation"]["loss/texts"] > 0


def test_only_plain_texts_need_pretrain_or_a_template(tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Once there was a king."}\n' * 3, encoding="utf-8")
    line = command_line(texts, tmp_path / "run", model=save_base(tmp_path / "base"), max_steps=1)
    with pytest.raises(RecipeError, match=r"texts.jsonl:1 is a plain text, but .* smol-hf pretrain, or name a templ"):
        run_recipe(*load_arguments(line))
    keys = {"eval_data": str(texts), "eval_generate_samples": 2, "eval_metric": ["anls"], "chat_template": "chatml"}
    line = command_line(texts, tmp_path / "other", model=tmp_path / "base", max_steps=1, **keys)
    with pytest.raises(RecipeError, match=r"eval_generate_samples asks for answers, but texts.jsonl:1 is a plain"):
        run_recipe(*load_arguments(line))


def test_a_base_model_gets_the_tokens_of_a_turn_and_is_told_so(data, tmp_path, capfd):
    base = save_base(tmp_path / "base", "native", *TURN_TOKENS)
    before = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight.detach()
    arguments = load_arguments(
        command_line(data, tmp_path / "run", model=base, chat_template="smollm2", max_steps=1, learning_rate=1e-12)
    )
    trainer = run_recipe(*arguments)
    printed = capfd.readouterr().out
    assert "no <|im_start|> and no <|im_end|>: added, with the mean of the embeddings, now of" in printed
    tokenizer, model = trainer.processing_class, trainer.model
    assert len(tokenizer) == len(before) + 2 == model.config.vocab_size
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert len(layer.weight) == len(tokenizer)
    assert torch.allclose(model.get_input_embeddings().weight[-2:], before.mean(0).expand(2, -1), atol=1e-6)
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id] == [len(before) + 1]


def test_adapters_learn_it_too_and_packed_rows_are_the_same(data, tmp_path, capsys):
    base = save_base(tmp_path / "base", "native", head=20.0)
    keys = {"use_peft": True, "lora_r": 32, "lora_alpha": 128, "lora_dropout": 0.0, "sample_packing": True}
    keys |= {"model": base, "chat_template": "chatml", "max_steps": 60, "learning_rate": 1e-2}
    line = command_line(data, tmp_path / "run", **keys, lora_trainable_tokens=["<|im_end|>", "<|im_start|>"])
    assert train.main(line) == 0
    losses = [entry["loss"] for entry in read_log(tmp_path / "run") if "loss" in entry]
    assert losses[-1] < losses[0] / 10
    merged, over_base = answers(tmp_path / "run" / "checkpoint"), answers(tmp_path / "run" / "adapter")
    assert merged == over_base == EXPECTED
    capsys.readouterr()
    assert smol_hf(["merge", str(tmp_path / "run" / "adapter"), str(tmp_path / "merged")]) == 0
    said = capsys.readouterr().out
    assert f"into {tmp_path / 'base'}" in said and "(LoRA of rank" in said and "the base is unchanged" in said
    assert answers(tmp_path / "merged") == merged
    card = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForCausalLM.from_pretrained" in card and "vision-language" not in card


def test_a_model_from_scratch_with_a_tokenizer_of_its_own(data, tmp_path):
    keys = {"preset": "tiny-text", "tokenizer_vocab_size": 400, "chat_template": "chatml", "max_steps": 2}
    assert train.main(command_line(data, tmp_path / "run", **keys)) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "checkpoint")
    assert tokenizer.eos_token == "<|im_end|>" and len(tokenizer) <= 400


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, "the tokenizer has no chat template.*chat_template: chatml"),
        ({"chat_template": "chatmil"}, "chat_template is 'chatmil': did you mean 'chatml'"),
        ({"chat_template": "gone.jinja"}, "chat_template gone.jinja cannot be read"),
        ({"chat_template": "chatml", "use_peft": True}, "needs <|im_start|> and <|im_end|>, which"),
        ({"chat_template": "chatml", "documents": "a.txt"}, "chat_template has no effect in a run over documents"),
    ],
)
def test_a_template_that_is_missing_or_does_not_fit_is_refused(keys, problem, data, tmp_path):
    base = save_base(tmp_path / "base", "native", *TURN_TOKENS)
    if "documents" in keys:
        (tmp_path / "a.txt").write_text("Some words.\n" * 50)
        keys = {**keys, "documents": tmp_path / "a.txt"}
    line = command_line(data, tmp_path / "run", model=base, **keys)
    with pytest.raises(RecipeError) as refused:
        run_recipe(*load_arguments(line))
    assert all(part in str(refused.value) for part in problem.split(".*"))


def test_a_template_of_a_file_and_one_for_pictures(data, tmp_path):
    base = save_base(tmp_path / "base", "native")
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ': ' + m['content'] + '<|endoftext|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
    )
    keys = {"model": base, "chat_template": tmp_path / "own.jinja", "max_steps": 1}
    assert train.main(command_line(data, tmp_path / "run", **keys)) == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "checkpoint").eos_token == "<|endoftext|>"
    with pytest.raises(RecipeError, match="chat_template is for conversations with a text-only model"):
        run_recipe(*load_arguments(command_line("digits", tmp_path / "x", preset="tiny-vlm", chat_template="chatml")))


def test_bad_records_are_counted_and_looked_at(data, tmp_path, capsys):
    base = save_base(tmp_path / "base", "native")
    mixed = tmp_path / "mixed.jsonl"
    picture = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}
    mixed.write_text(
        records(*TALKS) + json.dumps({"messages": [picture, {"role": "assistant", "content": "A cat."}]}) + "\n"
    )
    common = [str(mixed), "--model", str(base), "--set", "chat_template=chatml", "--json"]
    page = tmp_path / "preview.html"
    assert smol_hf(["data", "preview", *common, "--output", str(page)]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["shown"] == 3 and facts["left_out"] == 1
    assert "the model is text-only" in page.read_text(encoding="utf-8")
    assert smol_hf(["data", "stats", *common]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])
    keys = {"model": base, "chat_template": "chatml", "on_bad_sample": "skip", "max_skipped_fraction": 0.5}
    assert train.main(command_line(mixed, tmp_path / "run", **keys, max_steps=1)) == 0
    (line,) = map(json.loads, (tmp_path / "run" / "skipped.jsonl").read_text().splitlines())
    assert line["sample"] == "mixed.jsonl:4" and line["kind"] == "unusable"
