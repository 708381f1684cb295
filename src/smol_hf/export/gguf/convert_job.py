"""Run llama.cpp's converter in a process of its own. Its argument is JSON:

`folders` to import it from; `files`, each with `model` (folder), `output`, `type` (f32, f16, bf16, q8_0) and `images`
(true: the image encoder and connector, false: the language model); `pre_tokenizer` (its name, used if the converter
does not recognise the tokenizer); `parent` (the process that waits).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
LLAVA = "LlavaForConditionalGeneration"
PROJECTOR = {"multi_modal_projector.linear_1": "mm.0", "multi_modal_projector.linear_2": "mm.2"}
HEAD, EMBEDDINGS = "lm_head.weight", "embed_tokens.weight"


def end_with(parent: int) -> None:
    """End this process soon after its parent."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def language_model_class(base: type, pre_tokenizer: str | None) -> type:
    """Return the converter's class with a name for our tokenizers, and without a copy of tied embeddings."""

    class LanguageModel(base):
        model_arch = base.model_arch  # type: ignore[attr-defined]

        def get_vocab_base_pre(self, tokenizer) -> str:
            try:
                return super().get_vocab_base_pre(tokenizer)
            except NotImplementedError:
                if pre_tokenizer is None:
                    raise
                return pre_tokenizer

        def prepare_tensors(self):
            tensors = self.model_tensors
            embeddings = next((name for name in tensors if name.endswith(EMBEDDINGS)), None)
            if HEAD in tensors and embeddings is not None and same(tensors[HEAD](), tensors[embeddings]()):
                del tensors[HEAD]  # llama.cpp uses the embeddings then
            super().prepare_tensors()

    return LanguageModel


def llava_encoder_class() -> type:
    """Return a converter of CLIP and LLaVA's connector. llama.cpp's own one reads only Pixtral's encoder."""
    from conversion.base import MmprojModel  # type: ignore[import-not-found]

    class LlavaEncoder(MmprojModel):
        def set_gguf_parameters(self):
            super().set_gguf_parameters()
            layer, layers = self.global_config["vision_feature_layer"], self.hparams["num_hidden_layers"]
            self.gguf_writer.add_clip_projector_type("mlp")
            self.gguf_writer.add_vision_attention_layernorm_eps(self.hparams.get("layer_norm_eps", 1e-5))
            self.gguf_writer.add_array("clip.vision.feature_layer", [layer if layer >= 0 else layers + 1 + layer])
            if self.hparams["hidden_act"] != "quick_gelu":
                self.gguf_writer.add_vision_use_gelu(True)

        def modify_tensors(self, data_torch, name, bid):
            module, _, suffix = name.rpartition(".")
            if module in PROJECTOR:
                yield f"{PROJECTOR[module]}.{suffix}", data_torch
            elif name.startswith("vision_tower.") and "post_layernorm" not in name:
                yield from super().modify_tensors(data_torch, name, bid)

    return LlavaEncoder


def converter_class(hparams: dict[str, Any], images: bool, pre_tokenizer: str | None) -> type:
    from conversion import ModelType, get_model_architecture, get_model_class  # type: ignore[import-not-found]

    if images and hparams["architectures"] == [LLAVA]:
        return llava_encoder_class()
    name = get_model_architecture(hparams, ModelType.MMPROJ if images else ModelType.TEXT)
    used = get_model_class(name, mmproj=images)
    return used if images else language_model_class(used, pre_tokenizer)


def same(one, other) -> bool:
    from conversion.base import LazyTorchTensor  # type: ignore[import-not-found]

    one, other = LazyTorchTensor.to_eager(one), LazyTorchTensor.to_eager(other)
    return one.shape == other.shape and bool((one == other).all())


def convert(file: dict[str, Any], pre_tokenizer: str | None) -> None:
    import gguf
    import torch
    from conversion import ModelBase

    folder = Path(file["model"])
    with torch.inference_mode():
        hparams = ModelBase.load_hparams(folder, False)
        used = converter_class(hparams, file["images"], pre_tokenizer)
        file_type = getattr(gguf.LlamaFileType, FILE_TYPES[file["type"]])
        used(folder, file_type, Path(file["output"]), model_name=hparams["model_type"]).write()


def main() -> None:
    job = json.loads(sys.argv[1])
    threading.Thread(target=end_with, args=(job["parent"],), daemon=True).start()
    logging.basicConfig(level=logging.WARNING)
    sys.path[:0] = job["folders"]
    for file in job["files"]:
        convert(file, job["pre_tokenizer"])


if __name__ == "__main__":
    main()
