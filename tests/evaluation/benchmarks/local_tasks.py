"""Tasks of lmms-eval and lm-eval over a few local rows, and what our own code answers to these rows."""

import json

import numpy as np
from PIL import Image
from video_clips import clip, even_times

LMMS_TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_visual: !function local_utils.visuals
doc_to_text: !function local_utils.question
doc_to_target: answer
process_results: !function local_utils.{score}
generation_kwargs:
  max_new_tokens: {tokens}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
LMMS_UTILS = """
from PIL import Image


def visuals(doc):
    return [Image.open(path).convert("RGB") for path in doc["images"]] + list(doc["videos"])


def question(doc):
    return doc["prompt"]


def exact(doc, results):
    return {"exact_match": float(results[0].strip() == doc["answer"].strip())}


def choice(doc, results):
    from lmms_eval.tasks.mmmu.utils import get_multi_choice_info, parse_multi_choice_response

    index_to_answer, choices = get_multi_choice_info(eval(doc["options"]))
    return {"exact_match": float(parse_multi_choice_response(results[0], choices, index_to_answer) == doc["answer"])}
"""
LM_TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: []
  max_gen_toks: {tokens}
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
LM_IMAGE_TASK = LM_TASK.replace(
    'doc_to_text: "', 'doc_to_image: !function local_utils.visuals\ndoc_to_text: "<image>'
).replace("until: []", 'until: ["<end_of_utterance>"]')
NEW_TOKENS = 6


def media_rows(folder):
    """Rows with one image, two images, a video, and text only."""
    draw = np.random.default_rng(0)
    paths = []
    for index in range(3):
        paths.append(str(folder / f"page_{index}.png"))
        Image.fromarray(draw.integers(0, 256, (50, 40 + 30 * index, 3), dtype=np.uint8)).save(paths[-1])
    video = folder / "clip.mp4"
    video.write_bytes(clip(even_times(8)))
    rows = [([path], []) for path in paths] + [(paths[:2], []), ([], [str(video)]), ([], [])]
    question = "Which digit is written here?"
    return [
        {"prompt": f"{question} {index}", "images": images, "videos": videos}
        for index, (images, videos) in enumerate(rows)
    ]


def with_answers(rows, answers):
    """Give the even rows a reference that is our own answer; the others have a wrong one."""
    texts = [answer if index % 2 == 0 else f"not {answer}" for index, answer in enumerate(answers)]
    return [{**row, "answer": text} for row, text in zip(rows, texts)]


def write_task(folder, name, template, rows, score="exact"):
    """Write a task and its rows. `score`: a function of `LMMS_UTILS`."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(
        template.format(name=name, rows=folder / f"{name}.jsonl", tokens=NEW_TOKENS, score=score)
    )
    (folder / "local_utils.py").write_text(LMMS_UTILS)
    return folder
