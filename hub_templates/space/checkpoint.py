"""Load a `Writer` from a folder or repository, and check that its weights are complete."""

from fnmatch import fnmatch
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from writer import Problem, Writer, one_line

SAFE_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
OTHER_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
OTHER_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py")
RANDOM = "Random weights: this model was never trained, so its answers have no meaning."


def load(model_id: str, revision: str | None = None, *, trust_remote_code: bool = True) -> Writer:
    """Load the checkpoint, onto the GPU if there is one.

    Args:
        model_id: a folder, or a repository on the Hub (owner/name). Without weights, it gets random ones.

    Raises:
        Problem: if the checkpoint is missing or unusable.
    """
    folder = Path(model_id) if Path(model_id).is_dir() else fetch(model_id, revision)
    if not (folder / "config.json").is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        advice = "it is an adapter: merge it with its base first" if is_adapter else "it has no config.json"
        raise Problem(f"{model_id} is not a checkpoint: {advice}")
    options = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        sees_images = getattr(config, "vision_config", None) is not None
        processor = (AutoProcessor if sees_images else AutoTokenizer).from_pretrained(folder, **options)
        auto_class = AutoModelForImageTextToText if sees_images else AutoModelForCausalLM
        model, warning = read_or_draw(auto_class, folder, config, options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise Problem(f"{model_id} cannot be loaded: {one_line(error)}") from error
    if sees_images and processor.chat_template is None:
        raise Problem(f"{model_id} cannot answer prompts: its processor has no chat template")
    return Writer(model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor, warning)


def fetch(model_id: str, revision: str | None) -> Path:
    """Download the necessary files of a repository and return their folder. Offline, use the cache."""
    try:
        try:
            names = [name for name in HfApi().list_repo_files(model_id, revision=revision) if "/" not in name]
        except OfflineModeIsEnabled:
            return Path(snapshot_download(model_id, revision=revision, local_files_only=True))
        weights = matching(names, SAFE_WEIGHTS) or matching(names, OTHER_WEIGHTS)
        wanted = [name for name in matching(names, OTHER_FILES) if not name.endswith(".index.json")] + weights
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        raise Problem(
            f"{model_id} is not a local folder, and it cannot be downloaded from the Hub: {one_line(error)}"
        ) from error


def matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def read_or_draw(auto_class, folder: Path, config, options: dict):
    """Return (model, warning). A folder without weights gives a model with random weights."""
    # Half precision is slow on most CPUs.
    dtype = "auto" if torch.cuda.is_available() else torch.float32
    names = [path.name for path in folder.iterdir()]
    if not matching(names, (*SAFE_WEIGHTS, *OTHER_WEIGHTS)):
        torch.manual_seed(0)
        return auto_class.from_config(config, **options).to(dtype if dtype != "auto" else config.dtype), RANDOM
    model, found = auto_class.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    if broken := [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]:
        raise Problem(
            f"{folder.name} holds NaN or infinity in {len(broken)} weights, first {broken[0]}: it is damaged"
        )
    if missing := sorted(found["missing_keys"]):
        total = len({tensor.data_ptr() for tensor in model.parameters()})
        return model, (
            f"Random weights: {len(missing):,} of this model's {total:,} tensors are missing in its checkpoint "
            f"(first: {missing[0]}) and were initialised randomly. Do not rely on its answers."
        )
    return model, ""
