"""Runs in a fresh process without the package: loads checkpoints as a stranger would, and writes what they answer.

    python -I load_travelled.py CHECKPOINTS RESULTS

CHECKPOINTS holds the folders `text`, `vlm` and `composed`, `inputs.safetensors`, `messages.json` and the picture that
the messages name. RESULTS receives `results.safetensors`, `facts.json` and the same three folders, saved again.
The observations are functions, so that the test makes the same of the models in its memory.
"""

import importlib
import json
import sys
from pathlib import Path

import torch

DISTINCT = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "no_repeat_ngram_size": 1}


def observe(model, **inputs):
    """Logits of one pass, tokens of each way to generate (none comes twice), and a training step of packed samples."""
    with torch.no_grad():
        observations = {
            "logits": model(**inputs).logits,
            "tokens": model.generate(**inputs, **DISTINCT),
            "tokens_static": model.generate(**inputs, **DISTINCT, cache_implementation="static"),
            "tokens_beams": model.generate(**inputs, **DISTINCT, num_beams=3),
        }
    for given_as in ("past_key_values", "cache"):
        for read_as in ("past_key_values", "cache"):
            observations[f"{read_as}_as_{given_as}"] = continue_from_cache(model, given_as, read_as, **inputs)
    return {**observations, **train_packed(model, **inputs)}


@torch.no_grad()
def continue_from_cache(model, given_as, read_as, input_ids, attention_mask=None, **images):
    """Logits of the last token, when all before it are in a cache that is read and given by these names."""
    outputs = model(input_ids=input_ids[:, :-1], use_cache=True, **images)
    assert getattr(outputs, read_as) is outputs[read_as]
    assert outputs[read_as].get_seq_length() == input_ids.shape[1] - 1
    return model(input_ids=input_ids[:, -1:], **{given_as: outputs[read_as]}).logits


def train_packed(model, input_ids, attention_mask=None, pixel_values=None, **of_padded_tiles):
    """Loss and a gradient of the sample twice in one row, where each copy must only see itself."""
    positions = torch.arange(input_ids.shape[1]).unsqueeze(0)
    labels = input_ids.clone()
    labels[:, 0] = -100
    batch = {"input_ids": input_ids, "position_ids": positions, "labels": labels}
    batch = {name: torch.cat([tensor, tensor], dim=1) for name, tensor in batch.items()}
    if pixel_values is not None:
        tiles = pixel_values.flatten(0, 1) if pixel_values.dim() == 5 else pixel_values
        batch["pixel_values"] = torch.cat([tiles, tiles])
    model.train()
    loss = model(**batch).loss
    loss.backward()
    gradient = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    model.eval()
    return {"packed_loss": loss.detach(), "packed_gradient": gradient}


def observe_base(model, **inputs):
    with torch.no_grad():
        return {"last_hidden_state": model(**inputs).last_hidden_state}


def prompt(processor, messages):
    return processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def hide_package():
    """No entry of `sys.path` may offer the package, and where it is installed for good, importing it must fail."""
    sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "smol_hf" / "__init__.py").exists()]
    sys.modules["smol_hf"] = None
    try:
        importlib.import_module("smol_hf")
    except ModuleNotFoundError:
        return
    raise SystemExit("smol_hf is importable, so loading proves nothing")


def main(checkpoints, results):
    hide_package()
    import transformers
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    inputs = load_file(checkpoints / "inputs.safetensors")
    messages = json.loads((checkpoints / "messages.json").read_text())
    tensors, facts = {}, {"transformers": transformers.__version__}

    def load(auto_class, folder):
        loaded = auto_class.from_pretrained(checkpoints / folder, trust_remote_code=True)
        facts[f"{folder}/{auto_class.__name__}"] = f"{type(loaded).__module__}.{type(loaded).__name__}"
        return loaded

    def note(name, observations):
        tensors.update({f"{name}/{key}": value.contiguous() for key, value in observations.items()})

    for folder in ("text", "vlm", "composed"):
        load(AutoConfig, folder)

    text = {"input_ids": inputs["text_ids"]}
    note("text/AutoModel", observe_base(load(AutoModel, "text"), **text))
    model = load(AutoModelForCausalLM, "text")
    note("text/AutoModelForCausalLM", observe(model, **text))
    model.save_pretrained(results / "text")

    processor = load(AutoProcessor, "vlm")
    encoded = dict(prompt(processor, messages))
    note("vlm/AutoProcessor", encoded)
    processor.save_pretrained(results / "vlm")
    note("vlm/AutoModel", observe_base(load(AutoModel, "vlm"), **encoded))
    names = ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForMultimodalLM")
    for name in names:
        if hasattr(transformers, name):
            model = load(getattr(transformers, name), "vlm")
            note(f"vlm/{name}", observe(model, **encoded))
    model.save_pretrained(results / "vlm")

    pipe = transformers.pipeline("image-text-to-text", model=str(checkpoints / "vlm"), trust_remote_code=True)
    settings = {"return_full_text": False, "generate_kwargs": {**DISTINCT, "tokenizer": processor.tokenizer}}
    answers = pipe(text=messages, **settings)
    facts["pipeline"] = answers[0]["generated_text"]
    batched = pipe(text=[messages, messages], batch_size=2, **settings)
    facts["batched pipeline"] = [row[0]["generated_text"] for row in batched]

    model = load(AutoModelForImageTextToText, "composed")
    composed = {"input_ids": inputs["composed_ids"], "pixel_values": inputs["composed_tiles"]}
    note("composed/AutoModelForImageTextToText", observe(model, **composed))
    model.save_pretrained(results / "composed")

    # The table in which `transformers serve` looks classes up; 4.57 has none.
    tables = transformers.models.auto.modeling_auto
    served = getattr(tables, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {})
    facts["served"] = [served.get(name) for name in ("smol_hf_text", "smol_hf")]

    for name in ("inputs.safetensors", "messages.json"):
        (results / name).write_bytes((checkpoints / name).read_bytes())
    save_file(tensors, results / "results.safetensors")
    (results / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
