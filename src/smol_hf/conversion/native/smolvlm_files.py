"""The processor files of a native SmolVLM folder."""

from __future__ import annotations

from pathlib import Path

from smol_hf.conversion.checkpoint_files import read_json, write_json
from smol_hf.conversion.native.processor_texts import native_template, pixel_settings, write_texts
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.chat_format import END_OF_UTTERANCE_TOKEN, FAKE_IMAGE_TOKEN, GLOBAL_IMAGE_TOKEN, IMAGE_TOKEN
from smol_hf.processing.video_sampling import VideoSampling

VIDEO_SETTINGS = ("video_fps", "video_max_frames", "video_min_frames")  # in the order of `VideoSampling`
SPECIAL_TOKENS = {
    "image_token": IMAGE_TOKEN,
    "fake_image_token": FAKE_IMAGE_TOKEN,
    "end_of_utterance_token": END_OF_UTTERANCE_TOKEN,
    "global_image_token": GLOBAL_IMAGE_TOKEN,
}
# SmolVLM2's template: ours without the marks of generated text, which other engines do not support.
NATIVE_CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def write_smolvlm_files(source: Path, folder: Path, config: SmolHFConfig) -> list[str]:
    """Write the processor of our checkpoint `source` as SmolVLM's. Return notes about what it cannot express."""
    ours = read_json(source / "processor_config.json")
    tile = ours["tile_size"]
    frame_size = {"longest_edge": ours.get("video_frame_size", tile)}  # checkpoints before videos lack these keys
    sampling = VideoSampling(*(ours[name] for name in VIDEO_SETTINGS if name in ours))
    shared = {
        **pixel_settings(config),
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
    template = native_template(source)
    if "end_of_utterance" in template and template != native_template(source, marked=True):
        template = NATIVE_CHAT_TEMPLATE
    write_texts(folder, template, "SmolVLMProcessor", SPECIAL_TOKENS)
    write_json(folder / "preprocessor_config.json", image)
    write_json(folder / "video_preprocessor_config.json", video)
    write_json(folder / "processor_config.json", processor)
    style, notes = ours.get("video_style", "smolvlm"), []
    if style != "smolvlm":
        differ = "so prompts differ from those of training"
        notes.append(f"other engines write the texts of video_style smolvlm instead of {style}, {differ}")
    if sampling.min_frames > 1:
        notes.append(f"other engines know no least number of frames (video_min_frames {sampling.min_frames})")
    return notes
