"""What an attacker found: code without consent, silent wrong results, and lost work."""

import json
import shutil
import threading

import pytest
import torch
from conversion.native_models import llama, llava, saved
from helpers import build_model, build_processor
from isolated_runs import run_isolated
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint import save as save_shards
from transformers import LlamaConfig, LlamaForCausalLM

from smol_hf import train
from smol_hf.commands.main import main as smol_hf
from smol_hf.conversion.checking.check import check
from smol_hf.conversion.composition.compose import compose
from smol_hf.conversion.composition.parts import read_tokenizer
from smol_hf.conversion.convert import atomic_output, convert
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.merge import merge
from smol_hf.estimate.estimate import estimate
from smol_hf.training.recipe.values import RecipeError


@pytest.fixture
def ours(tmp_path):
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    build_model(processor).save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def faults(folder, **options):
    return {
        finding["name"]: finding["value"]
        for finding in check(folder, **options)["findings"]
        if finding["good"] is False
    }


def evil(path, marker):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"open({str(marker)!r}, 'w')\n")


@pytest.mark.parametrize("where", ["sub/evil.py", "custom_generate/generate.py", "../elsewhere/evil.py"])
def test_check_runs_no_foreign_code_unasked(where, ours, tmp_path):
    marker = tmp_path / "ran"
    evil(ours / where, marker)
    if where == "sub/evil.py":
        change(
            ours / "config.json", auto_map={"AutoConfig": "sub/evil.C", "AutoModelForImageTextToText": "sub/evil.M"}
        )
    elif where.startswith(".."):
        change(ours / "config.json", auto_map={"AutoConfig": f"{tmp_path}/elsewhere--evil.C"})
    assert "use --trust-remote-code to run it" in faults(ours)["loads without smol_hf"]
    assert not marker.exists()


def test_nothing_asks_on_the_terminal_whether_to_run_code(ours, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("it asked"))
    evil(ours / "evil.py", tmp_path / "ran")
    change(ours / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": [None, "evil.Evil"]})
    check(ours)
    change(ours / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C"})
    with pytest.raises((RecipeError, ValueError)):
        estimate(str(ours))
    assert not (tmp_path / "ran").exists()


def test_check_sees_what_is_missing_or_does_not_fit(ours, monkeypatch):
    monkeypatch.setattr(
        "smol_hf.conversion.checking.check.check_parity", lambda *_: []
    )  # a process, and not what is missing
    assert check(ours)["good"]
    weights = load_file(ours / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "language_model.model.norm.weight"}, ours / "model.safetensors"
    )
    assert "norm.weight" in faults(ours)["names and shapes"]
    save_file(weights, ours / "model.safetensors")
    change(ours / "processor_config.json", image_seq_len=9)
    assert "tokens of a tile 9, but the model has 4" in faults(ours)["processor"]
    (ours / "processor_config.json").write_text("{")
    assert "does not load" in faults(ours)["processor"]


def test_two_conversions_into_one_place_do_not_mix(tmp_path):
    saved(llama, tmp_path / "source")
    ready, go = threading.Event(), threading.Event()

    def slow():
        with atomic_output(tmp_path / "out") as folder:
            (folder / "slow").write_text("")
            ready.set()
            go.wait(30)

    failures = []

    def attempt():
        try:
            slow()
        except FileExistsError as error:
            failures.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    ready.wait(30)
    convert(str(tmp_path / "source"), tmp_path / "out")
    go.set()
    thread.join()
    assert failures and not (tmp_path / "out" / "slow").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_what_the_user_has_beside_the_output_stays(tmp_path):
    saved(llama, tmp_path / "source")
    (tmp_path / ".out.incomplete").mkdir()
    (tmp_path / ".out.incomplete" / "mine").write_text("")
    convert(str(tmp_path / "source"), tmp_path / "out")
    assert (tmp_path / ".out.incomplete" / "mine").exists()


def test_a_text_model_without_tokenizer_is_not_composed(tmp_path):
    saved(llama, tmp_path / "text")
    with pytest.raises(ConversionError, match="no tokenizer; expected one of"):
        read_tokenizer(tmp_path / "text")


def test_a_head_that_is_called_tied_but_differs_is_kept(tmp_path):
    native = saved(llama, tmp_path / "source")
    tensors = load_file(tmp_path / "source" / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"])
    save_file(tensors, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32).eval()
    convert(str(tmp_path / "source"), tmp_path / "ours")
    from smol_hf import SmolHFForCausalLM

    mine = SmolHFForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(mine(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5)
    assert native.config.tie_word_embeddings and not mine.config.tie_word_embeddings


def test_a_stale_index_beside_whole_weights_is_not_read(tmp_path):
    saved(llama, tmp_path / "source")
    right = load_file(tmp_path / "source" / "model.safetensors")
    save_file({name: torch.zeros_like(x) for name, x in right.items()}, tmp_path / "source" / "old.safetensors")
    index = {"weight_map": dict.fromkeys(right, "old.safetensors")}
    (tmp_path / "source" / "model.safetensors.index.json").write_text(json.dumps(index))
    convert(str(tmp_path / "source"), tmp_path / "ours")
    found = load_file(tmp_path / "ours" / "model.safetensors")
    assert torch.equal(found["model.norm.weight"], right["model.norm.weight"])


def test_weights_that_are_not_finite_are_not_exported(ours, tmp_path):
    weights = load_file(ours / "model.safetensors")
    weights["connector.proj.weight"][0, 0] = torch.nan
    save_file(weights, ours / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=r"proj\.weight contains NaN"):
        convert(str(ours), tmp_path / "native", to="native")


def test_llavas_last_layer_is_read_before_the_norm(tmp_path):
    native = saved(llava, tmp_path / "source")
    change(tmp_path / "source" / "config.json", vision_feature_layer=-1)
    convert(str(tmp_path / "source"), tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["vision_feature_layer"] == native.config.vision_config.num_hidden_layers


@pytest.mark.parametrize("values", [{"hidden_size": "x"}, {"num_attention_heads": 0}, {"rope_parameters": 7}])
def test_a_value_of_a_wrong_type_is_an_error_that_names_the_file(values, tmp_path):
    saved(llama, tmp_path / "source")
    change(tmp_path / "source" / "config.json", **values)
    with pytest.raises(ConversionError, match=r"json|missing|instead of|cannot"):
        convert(str(tmp_path / "source"), tmp_path / "ours")


@pytest.mark.parametrize("options", [{"vision_feature_layer": -9}, {"rope_theta": 0.0}, {"scale_factor": 0}])
def test_numbers_that_no_composition_can_have_are_refused(options, tmp_path):
    native = saved(llava, tmp_path / "llava")
    native.model.vision_tower.save_pretrained(tmp_path / "vision")
    saved(llama, tmp_path / "text")
    build_processor().tokenizer.save_pretrained(tmp_path / "text")
    with pytest.raises(ConversionError, match="--"):
        compose(str(tmp_path / "vision"), str(tmp_path / "text"), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_paths_are_not_markup(tmp_path, capsys):
    saved(llama, tmp_path / "source")
    assert smol_hf(["convert", str(tmp_path / "source"), str(tmp_path / "out[bold]z")]) == 0
    assert "out[bold]z" in "".join(capsys.readouterr().out.split())


# Adapters -----------------------------------------------------------------------------------------------------------


def adapter_of(ours, folder, **options):
    from smol_hf import SmolHFForConditionalGeneration

    model = SmolHFForConditionalGeneration.from_pretrained(ours, dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **options)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
     {"target_modules": ["embed_tokens"]}],
)  # fmt: skip
def test_an_adapter_of_one_of_two_tied_tensors_is_not_merged(options, ours, tmp_path):
    adapter = adapter_of(ours, tmp_path / "adapter", **options)
    with pytest.raises(ConversionError, match="ties embeddings and head"):
        merge(str(adapter), tmp_path / "merged", base=str(ours))


def test_a_base_that_lacks_a_tensor_is_not_merged_and_not_trained(ours, tmp_path, capsys):
    adapter = adapter_of(ours, tmp_path / "adapter", target_modules=["q_proj"])
    weights = load_file(ours / "model.safetensors")
    del weights["connector.proj.weight"]
    save_file(weights, ours / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=r"connector\.proj\.weight"):
        merge(str(adapter), tmp_path / "merged", base=str(ours))
    command = ["--model", str(ours), "--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--use_cpu", "true"]
    assert train.main([*command, "--data", "digits"]) == 1
    assert "1 tensor is missing, first connector.proj.weight" in capsys.readouterr().err


@pytest.mark.slow
def test_what_peft_saves_alone_gets_the_bases_processor(ours, tmp_path, monkeypatch):
    monkeypatch.setattr("smol_hf.conversion.checking.check.subprocess.run", run_isolated)
    adapter = adapter_of(ours, tmp_path / "adapter", target_modules=["q_proj"])
    build_processor().tokenizer.save_pretrained(adapter)
    merge(str(adapter), tmp_path / "merged", base=str(ours))
    assert json.loads((tmp_path / "merged" / "processor_config.json").read_text())["tile_size"] == 32
    assert check(tmp_path / "merged")["good"]


def test_a_run_does_not_overwrite_the_model_it_begins_with(ours, tmp_path, capsys):
    shutil.copytree(ours, tmp_path / "run" / "checkpoint")
    common = ["--data", "digits", "--max_steps", "1", "--use_cpu", "true", "--output_dir", str(tmp_path / "run")]
    assert train.main(["--model", str(tmp_path / "run" / "checkpoint"), *common]) == 1
    assert "would be overwritten by the result of this run" in capsys.readouterr().err
    adapter = adapter_of(ours, tmp_path / "adapter", target_modules=["q_proj"])
    assert train.main(["--model", str(adapter), *common]) == 1
    assert "is an adapter: merge it" in capsys.readouterr().err


# Estimates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"shards": 0}, {"shards": -2}, {"tflops": 0.0}, {"tflops": float("nan")}, {"labelled": -5}, {"tiles": -1},
     {"labelled": 10**6}, {"lora": {"lora_r": 0}}],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(options):
    with pytest.raises(RecipeError):
        estimate("tiny-vlm", length=64, **options)


def test_adapters_of_the_encoder_alone_are_estimated():
    facts = estimate("tiny-vlm", length=64, lora={"lora_r": 4, "lora_parts": ["vision"]})
    assert facts["trained_parameters"] == facts["parameters_per_part"]["adapters"] > 0


def sharded(folder, config, tensors):
    """A training checkpoint of FSDP with these tensors in one shard."""
    config.save_pretrained(folder)
    shards = FileSystemWriter(str(folder / "pytorch_model_fsdp_0"), single_file_per_rank=True)
    save_shards({"model": tensors}, storage_writer=shards, no_dist=True)
    return folder


def test_shards_that_do_not_fit_are_not_merged(tmp_path, capsys):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    weights = {name: weight.detach() for name, weight in LlamaForCausalLM(config).state_dict().items()}
    first = next(iter(weights))
    for name, tensors, message in (
        ("missing", {name: weight for name, weight in weights.items() if name != first}, "1 tensor is missing"),
        ("unknown", weights | {"other": torch.ones(2)}, "1 tensor is unknown, first other"),
        ("shape", weights | {first: torch.ones(3, 16)}, "1 tensor has another shape"),
        ("infinite", weights | {first: weights[first] * float("nan")}, "contains NaN or infinity"),
    ):
        folder = sharded(tmp_path / name, config, tensors)
        assert smol_hf(["merge", str(folder), str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    folder = sharded(tmp_path / "good", config, weights)
    assert smol_hf(["merge", str(folder), str(tmp_path / "out")]) == 0
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(merged[name], weight) for name, weight in weights.items())
    capsys.readouterr()
    next((folder / "pytorch_model_fsdp_0").glob("*.distcp")).unlink()
    assert smol_hf(["merge", str(folder), str(tmp_path / "again")]) == 1
    said = capsys.readouterr().err
    assert "__0_0.distcp, a shard of the weights, is missing" in said and "Traceback" not in said
    for values, message in (("{}", "is a None model"), ('{"model_type": "other"}', "is a other model")):
        (folder / "config.json").write_text(values)
        assert smol_hf(["merge", str(folder), str(tmp_path / "again")]) == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
