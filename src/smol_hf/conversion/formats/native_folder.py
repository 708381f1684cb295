"""Additions to a native SmolVLM folder of transformers 5, so that other engines read it.

They are `rope_theta` under its old name (else mlx-vlm and transformers 4.57 use a wrong default without an error), the
architecture name for llama.cpp's converter, the file of the image processor, the chat template in the tokenizer's
configuration, and special tokens in the form of transformers 4.
"""

from __future__ import annotations

from pathlib import Path

from smol_hf.conversion.checkpoint_files import read_json, write_json
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.chat_format import END_OF_UTTERANCE_TOKEN, FAKE_IMAGE_TOKEN, GLOBAL_IMAGE_TOKEN, IMAGE_TOKEN
from smol_hf.processing.video_sampling import VideoSampling

VIDEO_SETTINGS = ("video_fps", "video_max_frames", "video_min_frames")  # in the order of `VideoSampling`
# SmolVLM2's template: ours without the marks of generated text, which other engines do not support.
NATIVE_CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def finish_native_folder(source: Path, folder: Path, config) -> list[str]:
    """Complete `folder`, written by `save_pretrained` of the native class, from our checkpoint `source`.

    Returns notes about what a native folder cannot express.
    """
    native = read_json(folder / "config.json")
    text = native.get("text_config", native)
    rope = text.get("rope_parameters") or {}
    if "rope_theta" in rope:
        text["rope_theta"] = rope["rope_theta"]
    is_vlm = isinstance(config, SmolHFConfig)
    if is_vlm:
        text["architectures"] = ["VLlama3ForCausalLM"]
    write_json(folder / "config.json", native)
    if is_vlm and (source / "processor_config.json").is_file():
        return write_processor_files(source, folder, config)
    return []


def write_processor_files(source: Path, folder: Path, config: SmolHFConfig) -> list[str]:
    ours = read_json(source / "processor_config.json")
    tile = ours["tile_size"]
    frame_size = {"longest_edge": ours.get("video_frame_size", tile)}  # checkpoints before videos lack these keys
    sampling = VideoSampling(*(ours[name] for name in VIDEO_SETTINGS if name in ours))
    shared = {
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config.image_mean,
        "image_std": config.image_std,
        "do_resize": True,
        "resample": 1,
        "do_pad": True,
        "max_image_size": {"longest_edge": tile},
        "processor_class": "SmolVLMProcessor",
    }
    image = {
        **shared,
        "do_image_splitting": ours["do_image_splitting"],
        "size": {"longest_edge": ours["longest_edge"]},
        "image_processor_type": "SmolVLMImageProcessor",
    }
    video = {
        **shared,
        "size": frame_size,
        "video_processor_type": "SmolVLMVideoProcessor",
        "video_sampling": {"fps": sampling.fps, "max_frames": sampling.max_frames, "video_size": frame_size},
    }
    processor = {
        "image_processor": image,
        "video_processor": video,
        "image_seq_len": ours["image_seq_len"],
        "processor_class": "SmolVLMProcessor",
    }
    special_tokens = {
        "image_token": IMAGE_TOKEN,
        "fake_image_token": FAKE_IMAGE_TOKEN,
        "end_of_utterance_token": END_OF_UTTERANCE_TOKEN,
        "global_image_token": GLOBAL_IMAGE_TOKEN,
    }
    template = native_template(ours.get("chat_template"), source / "chat_template.jinja")
    tokenizer = read_json(folder / "tokenizer_config.json") | special_tokens
    tokenizer |= {
        "extra_special_tokens": special_tokens,
        "chat_template": template,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "SmolVLMProcessor",
        "add_bos_token": False,
    }
    write_json(folder / "preprocessor_config.json", image)
    write_json(folder / "video_preprocessor_config.json", video)
    write_json(folder / "processor_config.json", processor)
    write_json(folder / "tokenizer_config.json", tokenizer)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    style, notes = ours.get("video_style", "smolvlm"), []
    if style != "smolvlm":
        differ = "so prompts differ from those of training"
        notes.append(f"other engines write the texts of video_style smolvlm instead of {style}, {differ}")
    if sampling.min_frames > 1:
        notes.append(f"other engines know no least number of frames (video_min_frames {sampling.min_frames})")
    return notes


def native_template(template: str | None, path: Path) -> str:
    """Replace our template by SmolVLM2's. From another one remove the marks of generated text."""
    if not template:
        template = path.read_text(encoding="utf-8") if path.is_file() else ""
    if "end_of_utterance" in template and "{% generation %}" in template:
        return NATIVE_CHAT_TEMPLATE
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
