"""Training steps of smol_hf compared with nanoVLM's: its own model, image processor, data set and collator.

    git clone https://github.com/huggingface/nanoVLM
    pip install torchvision einops
    python benchmarks/nanovlm_step.py --nanovlm nanoVLM [--samples 32] [--batch-size 4] [--rounds 2] [--threads 2]

A random model of nanoVLM is saved, and `smol-hf convert` makes ours of it. All train on the same conversations about
pictures of unequal sizes, with the same tokens, tiles and labels. Each side runs in a process of its own, and they
take turns:

    smol_hf          packed rows whose samples do not see each other
    nanovlm padded   one sample per row, padded to the longest of the batch (nanoVLM itself pads to `lm_max_length`)
    nanovlm packed   the same samples in one row as nanoVLM packs them: they see each other

The last line is JSON: per side what `train_step.py` reports, the ratios of useful tokens/s, and the difference of the
first loss of `nanovlm padded`.
"""

import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from compared_models import SMALL, build_tokenizer
from measured_steps import parser_of, run_sides
from train_step import with_our_collator

VOCABULARY = 49152  # of SmolLM2
TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def extra_tokens() -> dict[str, str]:
    """nanoVLM's tokens for images, for the most tiles of an image."""
    sides = range(1, SMALL.longest_edge // SMALL.tile + 1)
    tiles = {f"r{row}c{column}": f"<row_{row}_col_{column}>" for row in sides for column in sides}
    return {"image_token": "<|image|>", "global_image_token": "<|global_image|>", **tiles}


def configuration(tokenizer: Path):
    """nanoVLM's configuration with the sizes of `SMALL`."""
    from models.config import VLMConfig  # type: ignore

    extra = extra_tokens()
    vision = dict(zip(("vit_hidden_dim", "vit_inter_dim", "vit_n_blocks", "vit_n_heads"), SMALL.vision))
    text = dict(zip(("lm_hidden_dim", "lm_inter_dim", "lm_n_blocks", "lm_n_heads"), SMALL.text))
    return VLMConfig(
        **vision, **text, lm_n_kv_heads=2, vit_patch_size=SMALL.patch, vit_img_size=SMALL.tile,
        max_img_size=SMALL.longest_edge,
        lm_base_vocab_size=VOCABULARY, extra_token_amount=len(extra), lm_vocab_size=VOCABULARY + len(extra),
        lm_tokenizer=str(tokenizer), lm_chat_template=TEMPLATE, mp_pixel_shuffle_factor=SMALL.scale,
        vlm_extra_tokens=extra, mp_image_token_length=SMALL.image_seq_len, vlm_load_backbone_weights=False,
    )  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """A tokenizer with as many tokens as SmolLM2's."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.add_tokens([f"<unused_{number}>" for number in range(VOCABULARY - len(tokenizer))])
    tokenizer.save_pretrained(folder)


def write_models(folder: Path) -> None:
    """Save a random model of nanoVLM, and ours with the same weights."""
    from models.vision_language_model import VisionLanguageModel  # type: ignore

    from smol_hf.conversion.convert import convert

    write_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    VisionLanguageModel(configuration(folder / "tokenizer"), load_backbone=False).save_pretrained(folder / "nanovlm")
    convert(str(folder / "nanovlm"), folder / "smol_hf", tokenizer=str(folder / "tokenizer"))


def ours(samples, _, folder: Path):
    """(model, collate, loss) of smol_hf."""
    from smol_hf.auto import AutoModelForImageTextToText
    from smol_hf.processing.processing_smol_hf import SmolHFProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder / "smol_hf", dtype=torch.float32)
    processor = SmolHFProcessor.from_pretrained(folder / "smol_hf")
    end = "<|im_end|>{% endgeneration %}"  # nanoVLM trains the line end after the answer too
    assert end in processor.chat_template
    processor.chat_template = processor.chat_template.replace(end, "<|im_end|>{{ '\n' }}{% endgeneration %}").replace(
        "<|im_end|>{% endif %}{{ '\n' }}", "<|im_end|>{{ '\n' }}{% endif %}"
    )
    return with_our_collator(model, processor, samples)


def nanovlm(samples, _, folder: Path, packed: bool):
    """(model, collate, loss) of nanoVLM."""
    from data.advanced_datasets import ConstantLengthDataset  # type: ignore
    from data.collators import VQACollator  # type: ignore
    from data.datasets import VQADataset  # type: ignore
    from data.processors import get_image_processor  # type: ignore
    from models.vision_language_model import VisionLanguageModel  # type: ignore

    model = VisionLanguageModel.from_pretrained(str(folder / "nanovlm"))
    config, write_chat = model.cfg, model.tokenizer.apply_chat_template
    # nanoVLM expects a list of ids, the default of transformers 4. With a dict it would label nothing.
    model.tokenizer.apply_chat_template = lambda *given, return_dict=False, **more: write_chat(
        *given, return_dict=return_dict, **more
    )
    images = get_image_processor(config.max_img_size, config.vit_img_size, config.resize_to_max_side_len)
    rows = [
        {"images": images, "texts": [{"user": question, "assistant": answer}]} for images, question, answer in samples
    ]
    data = VQADataset(rows, model.tokenizer, images, config.mp_image_token_length)
    packing = ConstantLengthDataset(data)
    collator = VQACollator(model.tokenizer, None)

    def pack(encoded: list[dict]) -> dict:
        """All in one row. nanoVLM ends each sample with a padding token."""
        for sample in encoded:
            sample["input_ids"] = torch.cat([sample["input_ids"], torch.tensor([model.tokenizer.pad_token_id])])
            sample["attention_mask"] = torch.cat([sample["attention_mask"], torch.tensor([0])])
            sample["labels"] = torch.cat([sample["labels"], torch.tensor([-100])])
        length = sum(len(sample["input_ids"]) for sample in encoded)
        names = ("input_ids", "labels", "attention_mask", "images")
        return dict(zip(names, packing._pack_one_group(range(len(encoded)), encoded, length)))

    def collate(indices):
        encoded = [data[index] for index in indices]
        return collator([pack(encoded)] if packed else encoded)

    def loss(batch):
        return model(batch["input_ids"], batch["images"], batch["attention_mask"], batch["labels"])[1]

    return model, collate, loss


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--nanovlm", type=Path, required=True, help="a clone of nanoVLM")
    arguments = parser.parse_args()
    if not (arguments.nanovlm / "models/vision_language_model.py").is_file():
        parser.error(f"--nanovlm {arguments.nanovlm}: this folder is not a clone of nanoVLM")
    sys.path.insert(0, str(arguments.nanovlm.resolve()))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:  # this process must not compute
            pool.submit(write_models, folder).result()
        sides = {
            "smol_hf": (ours, folder),
            "nanovlm padded": (nanovlm, folder, False),
            "nanovlm packed": (nanovlm, folder, True),
        }
        results = run_sides(sides, arguments)
    speed = {name: result["useful_tokens_per_second"] for name, result in results.items()}
    for name, result in results.items():
        print(f"{name:15} {speed[name]:6.0f} useful tokens/s, {result['peak_memory_mib']:6.0f} MiB", end=", ")
        print(f"padding {result['padding_fraction']:.0%}, first loss {result['first_loss']:.6f}")
    ratios = {f"ratio_{name.split()[1]}": speed["smol_hf"] / speed[name] for name in list(speed)[1:]}
    difference = abs(results["smol_hf"]["first_loss"] - results["nanovlm padded"]["first_loss"])
    print(json.dumps({**results, **ratios, "first_loss_difference": difference}))


if __name__ == "__main__":
    main()
