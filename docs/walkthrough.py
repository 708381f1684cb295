"""Write `docs/walkthrough.md`: one sample from record to loss, with the shapes and values of a real run.

    python docs/walkthrough.py > docs/walkthrough.md

A page of handwritten digits, embedded in the package, goes through a tiny model with random weights. The lines of the
code come from the functions themselves. A test compares the page with a new run.
"""

import inspect
import io
import sys
from pathlib import Path

import torch

from smol_hf import SmolHFConfig, SmolHFForConditionalGeneration, SmolHFProcessor
from smol_hf.data.collator import SmolCollator
from smol_hf.data.digits import build_pages
from smol_hf.data.media.images import load_image
from smol_hf.data.records.llava import read_llava
from smol_hf.data.records.registry import Place, adapt
from smol_hf.data.stream.preparation import ReadySample, SampleWork, template_messages
from smol_hf.modeling.attention import SmolHFAttention
from smol_hf.modeling.connector import PixelShuffleConnector
from smol_hf.modeling.decoder import SmolHFDecoderLayer
from smol_hf.modeling.image_embedding import ImageEmbeddingMixin
from smol_hf.modeling.label_loss import labelled_positions, loss_at, next_tokens
from smol_hf.modeling.mask import causal_mask
from smol_hf.modeling.tiles import normalize_tiles
from smol_hf.modeling.vision import build_vision_model, encoder_outputs, patch_features
from smol_hf.processing.chat_encoding import ChatEncoder
from smol_hf.processing.image_styles import SmolVLMStyle
from smol_hf.processing.image_tiling import ImageTiler
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
TILE, PATCH, SCALE = 32, 8, 2  # pixels of a tile's side, pixels of a patch's side, patches of a token's side


def place(*objects):
    """Links to the lines where these functions or classes begin."""
    links = []
    for each in objects:
        file = Path(inspect.getsourcefile(each)).resolve().relative_to(REPOSITORY)
        line = inspect.getsourcelines(each)[1]
        links.append(f"[`{each.__qualname__}`, {file}:{line}](../{file}#L{line})")
    return "Code: " + "; ".join(links)


def shape(tensor):
    """(batch, sequence) as text."""
    return "(" + ", ".join(map(str, tensor.shape)) + ")"


def values(tensor, number=4):
    """The first values of a tensor, with three digits after the point."""
    first = tensor.flatten()[:number].tolist()
    return "[" + ", ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in first) + ", …]"


def build_model(processor):
    """A random model that fits the processor; always the same one."""
    torch.manual_seed(0)
    tokenizer = processor.tokenizer
    config = SmolHFConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": TILE, "patch_size": PATCH,
        },
        scale_factor=SCALE,
        image_token_id=processor.image_token_id,
    )  # fmt: skip
    return SmolHFForConditionalGeneration(config).train()


def steps():
    """Yield (title, place in the code, sentences, shapes and values) of each of the twelve steps."""
    (page,) = build_pages(1, seed=0, split="train", page_size=2 * TILE)
    png = page.conversation.images[0].content
    record = {
        "image": {"bytes": png},
        "conversations": [
            {"from": "human", "value": f"<image>\n{page.question}"},
            {"from": "gpt", "value": page.answer},
        ],
    }
    shown = str({**record, "image": {"bytes": f"{len(png)} bytes of PNG"}})
    yield ("A record", place(read_llava), "A row of a dataset, here in the form of LLaVA.", [f"`{shown}`"])

    conversation = adapt(record, Place("pages.parquet:1"))
    user, assistant = conversation.messages
    yield (
        "A conversation", place(type(conversation)),
        "Every form of record becomes messages of typed parts. The image is not decoded yet.",
        [f"`{message.role}`: " + ", ".join(
            f"`{type(part).__name__}({getattr(part, 'text', '…')!r})`" for part in message.parts
        ) for message in (user, assistant)],
    )  # fmt: skip

    tokenizer = build_tiny_tokenizer(["User: Which digit is written here?", "Assistant: 0"] * 3)
    processor = SmolHFProcessor(tokenizer, tile_size=TILE, image_seq_len=4, longest_edge=2 * TILE)
    messages, _ = template_messages(conversation)
    text = processor.apply_chat_template(messages)
    yield (
        "The text of the chat template", place(SmolHFProcessor.apply_chat_template),
        "The template writes the roles and special tokens. `<image>` marks the place of the image.", [f"`{text!r}`"],
    )  # fmt: skip

    work = SampleWork(processor, 256, [None])
    sample = work.prepare(0, conversation.sample_id, conversation)
    height, width = 2 * TILE, 2 * TILE
    rows, columns = processor.tiler.grid(height, width)
    block = processor.image_block_ids(height, width)
    yield (
        "The tokens of the image", place(ImageTiler.grid, SmolVLMStyle.write),
        f"The size in the file's header decides the grid: {height} × {width} pixels are {rows} × {columns} tiles of "
        f"{TILE} × {TILE}, and a small copy of the whole. Each tile takes {processor.image_seq_len} image tokens.",
        [f"{len(block)} tokens for {rows * columns + 1} tiles: `{tokenizer.decode(block[:12])!r}` …"],
    )  # fmt: skip

    ids, labels = torch.tensor(sample.input_ids), torch.tensor(sample.labels)
    answer = [i for i, label in enumerate(sample.labels) if label >= 0]
    yield (
        "Token ids and labels", place(ChatEncoder, SampleWork.prepare),
        "The image token becomes the block above. Only what the assistant says has labels; -100 marks the rest.",
        [
            f"`input_ids` {shape(ids)}: {values(ids, 8)}",
            f"`labels` {shape(labels)}: -100, except at {answer}: {labels[answer].tolist()}, which is "
            f"`{tokenizer.decode(labels[answer])!r}`",
        ],
    )  # fmt: skip

    image = load_image(conversation.images[0], conversation.sample_id)
    ready = work.encode(0, sample)
    yield (
        "Tiles", place(ImageTiler.tiles, SampleWork.encode, ReadySample),
        f"Only now the image is decoded ({image.width} × {image.height}, {image.mode}), resized and cut. Tiles stay "
        "bytes.",
        [f"`tiles` {shape(ready.tiles)} {str(ready.tiles.dtype).removeprefix('torch.')}: the middle row of the last "
         f"tile begins {values(ready.tiles[-1, 0, TILE // 2, 8:], 8)} at column 8"],
    )  # fmt: skip

    batch = SmolCollator(processor, packing=True)([ready])
    yield (
        "A batch", place(SmolCollator),
        "The collator stacks samples. In a packed row, positions restart at 0 with each sample; here is only one.",
        [f"`{name}` {shape(each)}: {values(each)}" if torch.is_tensor(each) else f"`{name}`: {each}"
         for name, each in batch.items()],
    )  # fmt: skip

    model = build_model(processor)
    config = model.config
    pixels = normalize_tiles(batch["pixel_values"], config, model.dtype)
    patches = patch_features(encoder_outputs(model.vision_model, pixels, config), config)
    yield (
        "The image encoder", place(normalize_tiles, build_vision_model, encoder_outputs),
        f"Bytes become numbers around 0. Each tile is cut into {(TILE // PATCH) ** 2} patches of {PATCH} × {PATCH} "
        "pixels, and every patch attends to all patches of its tile.",
        [f"normalised {shape(pixels)}: {values(pixels)}", f"patches {shape(patches)}: {values(patches)}"],
    )  # fmt: skip

    features = model.connector(patches)
    yield (
        "The connector", place(PixelShuffleConnector),
        f"Squares of {SCALE} × {SCALE} patches become one token each, in the space of the language model.",
        [f"features {shape(features)}: {values(features)}"],
    )  # fmt: skip

    embeds, _ = model.embed(batch["input_ids"], pixel_values=batch["pixel_values"])
    first = int((batch["input_ids"][0] == config.image_token_id).nonzero()[0])
    yield (
        "One sequence of text and image", place(ImageEmbeddingMixin.embed, ImageEmbeddingMixin.replace_image_tokens),
        "Token ids become embeddings; the features replace those of the image tokens, in reading order.",
        [f"embeddings {shape(embeds)}: position {first}, the first image token, is {values(embeds[0, first])}, the "
         "first feature"],
    )  # fmt: skip

    decoder = model.get_decoder()
    sequence = batch["position_ids"].shape[1]
    eager = type(decoder.config)(**{**decoder.config.to_dict(), "attn_implementation": "eager"})
    mask = causal_mask(eager, embeds, None, None, batch["position_ids"], torch.arange(sequence))
    hidden = decoder(inputs_embeds=embeds, position_ids=batch["position_ids"], use_cache=False).last_hidden_state
    yield (
        "The decoder", place(causal_mask, SmolHFDecoderLayer, SmolHFAttention),
        f"{len(decoder.layers)} layers: x ← x + Attn(Norm(x)); x ← x + MLP(Norm(x)). Each token sees itself and the "
        "tokens before it.",
        [f"mask {shape(mask)}: token 0 sees {int((mask[0, 0, 0] == 0).sum())} token, token {sequence - 1} sees "
         f"{int((mask[0, 0, -1] == 0).sum())}", f"hidden states {shape(hidden)}: {values(hidden)}"],
    )  # fmt: skip

    kept = batch["logits_to_keep"]
    logits = model.language_model.lm_head(hidden[:, kept])
    loss, losses = loss_at(logits, batch["labels"], kept)
    whole = model(**batch).loss
    assert torch.equal(loss, whole), (loss, whole)  # the steps are the model
    yield (
        "Logits and the loss", place(labelled_positions, next_tokens, loss_at),
        f"Logits are made only at the {len(kept)} positions whose next token has a label. The loss is the mean of "
        f"-log p(next token). A guess among {logits.shape[-1]} tokens costs log({logits.shape[-1]}) = "
        f"{torch.tensor(float(logits.shape[-1])).log():.3f}.",
        [f"logits {shape(logits)} at positions {kept.tolist()}", "loss of each token "
         f"{shape(losses)}: {[round(value, 3) for value in losses[0].tolist()]}", f"loss {whole:.3f}"],
    )  # fmt: skip


def write(file):
    """Write the page."""
    file.write(
        "# One sample, from record to loss\n\n"
        "A page of handwritten digits goes through the whole package, in twelve steps. The model is tiny and its "
        "weights are\nrandom. `python docs/walkthrough.py > docs/walkthrough.md` writes this page from a real run.\n"
    )
    for number, (title, where, sentences, facts) in enumerate(steps(), start=1):
        file.write(f"\n## {number}. {title}\n\n{sentences}\n\n" + "".join(f"- {fact}\n" for fact in facts))
        file.write(f"\n{where}\n")


def text():
    """The page as text."""
    page = io.StringIO()
    write(page)
    return page.getvalue()


if __name__ == "__main__":
    sys.stdout.write(text())
