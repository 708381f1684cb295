"""Composing: every encoder with every connector and language model trains a step, generates and is saved whole."""

import json

import pytest
import torch
from conversion.native_models import saved
from helpers import ready
from modeling.builders import BACKBONES, ENCODERS, build_tokenizer
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.siglip2 import Siglip2VisionModel

from smol_hf import SmolHFForCausalLM
from smol_hf.conversion.composition.compose import compose
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
from smol_hf.training.model.presets import llama_style

CONNECTORS = ["linear", "mlp", "pixel_shuffle"]
TEXT = {"vocab_size": 96, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 32}  # fmt: skip
MEANS = {"siglip": [0.5] * 3, "siglip2": [0.5] * 3, "clip": [0.48, 0.46, 0.41], "dinov2": [0.485, 0.456, 0.406]}


def sizes(name):
    return {key: value for key, value in ENCODERS[name].items() if key != "model_type"}


def build_encoder(name):
    """SigLIP and CLIP as published, with their text towers; the others alone."""
    if name == "siglip":
        return SiglipModel(SiglipConfig(vision_config=sizes(name), text_config=TEXT))
    if name == "clip":
        return CLIPModel(CLIPConfig(vision_config=sizes(name), text_config=TEXT, projection_dim=8))
    if name == "siglip2":
        return Siglip2VisionModel(Siglip2VisionConfig(**sizes(name)))
    from transformers import Dinov2Config

    return AutoModel.from_config(Dinov2Config(**sizes(name)))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of four encoders and two language models with their tokenizers."""
    place = tmp_path_factory.mktemp("parts")
    for name in ENCODERS:
        saved(lambda name=name: build_encoder(name), place / name)
        preprocessor = {"image_mean": MEANS[name], "image_std": [0.2, 0.3, 0.4]}
        (place / name / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    tokenizer = build_tokenizer()
    llama = llama_style(32, 48, 2, 4, 2, 10000.0, 256, len(tokenizer) + 10)
    saved(lambda: LlamaForCausalLM(LlamaConfig(**llama, tie_word_embeddings=True)), place / "llama")
    gpt2 = {**BACKBONES["gpt2"], "vocab_size": len(tokenizer), "n_positions": 256}
    gpt2.pop("model_type")
    saved(lambda: GPT2LMHeadModel(GPT2Config(**gpt2)), place / "gpt2")
    for name in ("llama", "gpt2"):
        tokenizer.save_pretrained(place / name)
    return place


def training_batch(processor, picture):
    question = (ImagePart(path=str(picture)), TextPart("What is in the picture?"))
    conversation = Conversation("x", (Message("user", question), Message("assistant", (TextPart("A cat."),))))
    return SmolCollator(processor)(ready([conversation], processor))


@pytest.mark.parametrize("text", ["llama", "gpt2"])
@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_trains_a_step_and_generates(encoder, connector, text, parts, tmp_path):
    facts = compose(
        str(parts / encoder), str(parts / text), tmp_path / "out", connector=connector, longest_edge=48,
        keep_text_class=text == "gpt2",
    ) if connector == "pixel_shuffle" else compose(
        str(parts / encoder), str(parts / text), tmp_path / "out", connector=connector, keep_text_class=text == "gpt2"
    )  # fmt: skip
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert isinstance(model.language_model, SmolHFForCausalLM if text == "llama" else GPT2LMHeadModel)
    assert model.config.image_mean == MEANS[encoder] and model.config.image_std == [0.2, 0.3, 0.4]
    before_the_norm = model.config.vision_config.num_hidden_layers  # so that LLaVA can read it
    usual = -1 if connector == "pixel_shuffle" else before_the_norm
    assert model.config.vision_feature_layer == (-2 if encoder == "clip" else usual)
    assert processor.image_style == ("smolvlm" if connector == "pixel_shuffle" else "plain")
    assert facts["parameters"]["total"] == sum(weight.numel() for weight in model.parameters())

    Image.effect_mandelbrot((40, 24), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "picture.png")
    batch = training_batch(processor, tmp_path / "picture.png")
    loss = model.train()(**batch).loss
    loss.backward()
    assert (
        torch.isfinite(loss)
        and model.connector.get_parameter("linear_1.weight" if connector == "mlp" else "proj.weight").grad.abs().max()
        > 0
    )
    torch.optim.SGD(model.parameters(), lr=0.02).step()
    assert model(**batch).loss < loss

    messages = [{"role": "user", "content": [{"type": "image", "image": str(tmp_path / "picture.png")}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    answer = model.eval().generate(**inputs, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_the_parts_keep_their_weights(encoder, parts, tmp_path):
    compose(str(parts / encoder), str(parts / "llama"), tmp_path / "out", connector="linear")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    native = AutoModel.from_pretrained(parts / encoder).eval()
    theirs = getattr(native, "vision_model", native)
    ours = dict(model.vision_model.named_parameters())
    theirs = {name: weight for name, weight in theirs.named_parameters() if not name.startswith("head.")}
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    llama = LlamaForCausalLM.from_pretrained(parts / "llama").eval()
    ids = torch.randint(50, 300, (1, 20))
    vocabulary = llama.config.vocab_size - 10  # rows beyond the tokenizer were never trained
    expected, actual = llama(ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(actual[..., :vocabulary], expected[..., :vocabulary], rtol=0, atol=1e-5)


def test_new_tokens_begin_as_the_mean_and_a_tied_head_stays_tied(parts, tmp_path):
    before = load_file(parts / "gpt2" / "model.safetensors")["transformer.wte.weight"]
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["word"])
    facts = compose(str(parts / "siglip"), str(parts / "gpt2"), tmp_path / "out", longest_edge=7 * 24)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    embeddings = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is embeddings
    assert facts["new_tokens"] == 7 * 7 - 6 * 6, "the tokenizer has tokens for six rows and columns"
    assert len(embeddings) == len(before) + facts["new_tokens"] == model.config.text_config.vocab_size
    assert torch.equal(embeddings[: len(before)], before)
    torch.testing.assert_close(embeddings[len(before) :], before.mean(0).expand(facts["new_tokens"], -1))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert len(processor.tokenizer) == len(embeddings)


def test_the_context_is_extended(parts, tmp_path):
    compose(str(parts / "siglip"), str(parts / "llama"), tmp_path / "a", extend_context=16384, rope_theta=273000.0)
    config = AutoModelForImageTextToText.from_pretrained(tmp_path / "a").config.text_config
    assert config.max_position_embeddings == 16384 and config.rope_parameters["rope_theta"] == 273000.0
    with pytest.raises(ConversionError, match="does not have a single rotary base"):
        compose(str(parts / "siglip"), str(parts / "gpt2"), tmp_path / "b", extend_context=16384)
    with pytest.raises(ConversionError, match="it has 256 positions already"):
        compose(str(parts / "siglip"), str(parts / "llama"), tmp_path / "b", extend_context=100)


@pytest.mark.parametrize(
    ("vision", "text", "options", "message"),
    [
        ("siglip", "llama", {"scale_factor": 4}, r"scale_factor 4 does not divide the 6 patches.*\[1, 2, 3, 6\]"),
        ("siglip", "llama", {"connector": "mlp", "scale_factor": 2}, "--scale-factor is only for pixel_shuffle"),
        ("siglip", "llama", {"connector": "perceiver"}, "choose one of pixel_shuffle, linear, mlp"),
        ("llama", "llama", {}, "'llama' is not a supported image encoder"),
        ("siglip", "clip", {}, r"not a causal language model .* for this kind of AutoModel: AutoModelForCausalLM\.$"),
        ("siglip/config.json", "llama", {}, r"config\.json is a file: name the folder of a checkpoint"),
        ("siglip", "llama/config.json", {}, r"config\.json is a file: name the folder of a checkpoint"),
        ("siglip", "nowhere", {}, "no such file or folder"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(vision, text, options, message, parts, tmp_path):
    with pytest.raises(ConversionError, match=message):
        compose(str(parts / vision), str(parts / text), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_missing_and_misshapen_tensors_of_an_encoder_are_named(parts, tmp_path):
    from safetensors.torch import save_file

    source = tmp_path / "siglip"
    source.mkdir()
    (source / "config.json").write_text((parts / "siglip" / "config.json").read_text())
    tensors = load_file(parts / "siglip" / "model.safetensors")
    name = "vision_model.post_layernorm.weight"
    save_file({**tensors, name: tensors[name][:-1].contiguous()}, source / "model.safetensors")
    with pytest.raises(ConversionError, match=r"post_layernorm\.weight is \(15,\) instead of \(16,\)"):
        compose(str(source), str(parts / "llama"), tmp_path / "out")
    del tensors[name]
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ConversionError, match=r"1 tensor is missing, first post_layernorm\.weight"):
        compose(str(source), str(parts / "llama"), tmp_path / "out")
