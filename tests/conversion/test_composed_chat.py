"""The chat format of a composed model, and the language models that cannot be composed."""

import json

import pytest
import torch
from chat_models import SMOLLM2_INSTRUCT, chat_tokenizer
from conversion.native_models import saved
from conversion.test_compose import build_encoder
from helpers import plan_for
from modeling.builders import build_tokenizer, randomise
from PIL import Image
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from smol_hf import SmolHFForCausalLM
from smol_hf.commands.main import main
from smol_hf.conversion.composition.compose import compose
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.data.collator import SmolCollator
from smol_hf.data.digits import build_pages
from smol_hf.training.model.presets import llama_style
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.trainer import SmolTrainer

LLAMA3 = (
    "{{- bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ENDLESS = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
TURNS = [
    {"role": "user", "content": "Who wrote it?"},
    {"role": "assistant", "content": "Nobody."},
    {"role": "user", "content": "And then?"},
]
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoder")
    saved(lambda: build_encoder("siglip"), place)
    return str(place)


def save_language_model(folder, tokenizer, ends=None):
    sizes = llama_style(32, 48, 2, 4, 2, 10000.0, 256, len(tokenizer))
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True, eos_token_id=0))
    if ends is not None:
        model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def in_parts(messages):
    return [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]


@pytest.mark.parametrize(("template", "end"), [(SMOLLM2_INSTRUCT, "<|im_end|>"), (LLAMA3, "<|eot_id|>")])
def test_the_language_models_own_template_is_kept_with_places_for_images(template, end, encoder, tmp_path):
    source = chat_tokenizer(template)
    text = save_language_model(tmp_path / "text", source, ends=[0, 5])
    facts = compose(encoder, text, tmp_path / "out", longest_edge=48)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    tokenizer = processor.tokenizer
    expected = source.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    for messages in (TURNS, in_parts(TURNS)):
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected
        ids = processor.encode_text(messages, [], add_generation_prompt=True)[0]
        assert ids == source(expected, add_special_tokens=False)["input_ids"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == (source.bos_token, source.eos_token)

    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    asked = source.apply_chat_template([{"role": "user", "content": "<image>What?"}], tokenize=False)
    assert processor.apply_chat_template(question) == asked
    ids = processor.encode(question, [Image.new("RGB", (24, 24))]).input_ids
    assert ids.count(processor.image_token_id) == 5 * processor.image_seq_len, "four tiles and the overview"

    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == [source.convert_tokens_to_ids(end), 0, 5]
    assert tokenizer.convert_tokens_to_ids("<end_of_utterance>") in generation.suppress_tokens
    assert facts["end_tokens"][0] == end


@pytest.mark.parametrize(("template", "end"), [(SMOLLM2_INSTRUCT, "<|im_end|>"), (LLAMA3, "<|eot_id|>")])
def test_the_answers_of_a_kept_template_are_labelled(template, end, encoder, tmp_path):
    text = save_language_model(tmp_path / "text", chat_tokenizer(template))
    compose(encoder, text, tmp_path / "out", longest_edge=48)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    _, labels = processor.encode_text(TURNS[:2], [])
    assert processor.tokenizer.decode([label for label in labels if label != -100]) == f"Nobody.{end}"


def test_a_base_model_gets_no_end_token_that_it_has_not_learned(encoder, tmp_path):
    text = save_language_model(tmp_path / "text", chat_tokenizer(None))
    facts = compose(encoder, text, tmp_path / "out", longest_edge=48)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.apply_chat_template(in_parts(TURNS[:2])) == (
        "<|im_start|>User: Who wrote it?<|endoftext|>\nAssistant: Nobody.<|endoftext|>\n"
    )
    assert facts["end_tokens"] == ["<|endoftext|>"]
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 0


def test_smolvlms_template_or_a_file_is_taken_when_asked_for(encoder, tmp_path, capsys):
    text = save_language_model(tmp_path / "text", chat_tokenizer(SMOLLM2_INSTRUCT))
    facts = compose(encoder, text, tmp_path / "smolvlm", longest_edge=48, chat_template="smolvlm")
    written = AutoProcessor.from_pretrained(tmp_path / "smolvlm").apply_chat_template(in_parts(TURNS[:1]))
    assert written == "<|im_start|>User: Who wrote it?<end_of_utterance>\n"
    assert facts["end_tokens"] == ["<end_of_utterance>", "<|endoftext|>"], "its own end stays one"
    (tmp_path / "own.jinja").write_text(LLAMA3)
    command = ["compose", str(tmp_path / "file"), "--vision", encoder, "--text", text, "--longest-edge", "48"]
    main([*command, "--chat-template", str(tmp_path / "own.jinja")])
    assert "answers end with <|eot_id|>" in capsys.readouterr().out
    written = AutoProcessor.from_pretrained(tmp_path / "file").apply_chat_template(in_parts(TURNS[:1]))
    assert written == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho wrote it?<|eot_id|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (ENDLESS, "no special token of the tokenizer"),
        ("{{ messages[0]['name'] }}", "cannot write a message with an image"),
        ("{% for i in range(1000000) %}{% endfor %}", "cannot write a message with an image .Range too big"),
        ("{{ 1 // 0 }}", "cannot write a message with an image .*by zero"),
    ],
)
def test_a_template_that_ends_no_answer_or_writes_no_image_is_refused(template, message, encoder, tmp_path):
    text = save_language_model(tmp_path / "text", chat_tokenizer(template))
    with pytest.raises(ConversionError, match=message):
        compose(encoder, text, tmp_path / "out", longest_edge=48)
    with pytest.raises(ConversionError, match=r"choose keep, smolvlm, or the path of a \.jinja file"):
        compose(encoder, text, tmp_path / "out", chat_template="chatml")
    assert not (tmp_path / "out").exists()


def save_foreign(folder, model_type, **sizes):
    tokenizer = build_tokenizer()
    config = CONFIG_MAPPING[model_type](**{**SIZES, "vocab_size": len(tokenizer), **sizes})
    torch.manual_seed(0)
    randomise(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "head_dim": 8}
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 400, **LAYERS}


@pytest.mark.parametrize(
    ("model_type", "sizes", "reason"),
    [
        ("falcon_h1", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1,
                       "mamba_d_state": 16, "mamba_chunk_size": 16}, "with embeddings as input|NaN"),
        ("gemma3n_text", {**PER_LAYER, "laurel_rank": 4, "altup_num_inputs": 2, "intermediate_size": [48, 48],
                          "activation_sparsity_pattern": [0.0, 0.0]}, "with embeddings as input"),
        ("gemma4_text", {**PER_LAYER, "global_head_dim": 8}, "composed, it fails on an image"),
        ("minimax", {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 16,
                     "layer_types": ["linear_attention", "full_attention"]}, "composed, it cannot generate"),
    ],
)  # fmt: skip
def test_a_language_model_that_would_be_computed_wrongly_is_refused(model_type, sizes, reason, encoder, tmp_path):
    text = save_foreign(tmp_path / "text", model_type, **sizes)
    with pytest.raises(ConversionError, match=rf"{model_type} cannot be the language model: .*({reason})"):
        compose(encoder, text, tmp_path / "out", longest_edge=48)
    assert not (tmp_path / "out").exists()


def test_positions_that_our_decoder_cannot_hold_keep_transformers_class(encoder, tmp_path, capsys):
    scaled = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    text = save_foreign(tmp_path / "text", "llama", rope_parameters=scaled)
    main(["compose", str(tmp_path / "out"), "--vision", encoder, "--text", text, "--longest-edge", "48"])
    said = capsys.readouterr().out
    assert "keeps transformers' own class: llama: rotary positions of type 'llama3' are not supported" in said
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert isinstance(model.language_model, LlamaForCausalLM)
    assert model.config.text_config.rope_parameters["rope_type"] == "llama3"


def test_an_encoder_is_taken_out_of_a_checkpoint_of_ours(encoder, tmp_path):
    text = save_language_model(tmp_path / "text", chat_tokenizer(None))
    compose(encoder, text, tmp_path / "first", longest_edge=48)
    path = tmp_path / "first" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    facts = compose(str(tmp_path / "first"), text, tmp_path / "second", connector="mlp")
    first = AutoModelForImageTextToText.from_pretrained(tmp_path / "first")
    second = AutoModelForImageTextToText.from_pretrained(tmp_path / "second")
    theirs = dict(first.vision_model.named_parameters())
    ours = dict(second.vision_model.named_parameters())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert second.config.image_mean == [0.1, 0.2, 0.3]
    assert isinstance(second.language_model, SmolHFForCausalLM) and facts["own_class"] is None


def test_rows_of_new_tokens_are_trained_while_the_language_model_is_frozen(encoder, tmp_path):
    text = save_language_model(tmp_path / "text", chat_tokenizer(SMOLLM2_INSTRUCT))
    compose(encoder, text, tmp_path / "out", longest_edge=48, chat_template="smolvlm")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    pages = [page.conversation for page in build_pages(8, seed=0, split="train")]
    arguments = SmolTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=2, save_strategy="no", use_cpu=True,
        learning_rate=1e-2, weight_decay=0.1, text_learning_rate=0.0, vision_learning_rate=0.0,
    )  # fmt: skip
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = SmolTrainer(
        model=model,
        args=arguments,
        plan=plan_for(pages, processor),
        processing_class=processor,
        data_collator=SmolCollator(processor),
    )
    trainer.train()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    table = "language_model.model.embed_tokens.weight"
    assert moved == {"connector.proj.weight", table}
    first, last = model.config.new_tokens
    assert (first, last) == (len(chat_tokenizer(None)), len(processor.tokenizer))
    changed = (model.get_parameter(table) != before[table]).any(1)
    assert not changed[:first].any()
    assert changed[processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")]
