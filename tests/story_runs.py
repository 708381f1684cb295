"""Runs of a tiny language model over a short story, in the current folder."""

from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.run import train

SENTENCES = [
    f"{name} the {animal} {verb} {place}, and {name} was {mood} because the {animal} {verb} {place}.\n"
    for name in ("Ada", "Bruno", "Celia", "Dmitri")
    for animal in ("fox", "heron", "otter")
    for verb in ("sleeps", "waits", "sings")
    for place in ("under the bridge", "beside the mill", "on the hill")
    for mood in ("glad", "sorry")
]
TINY = ["--preset", "tiny-text", "--context_length", "64", "--per_device_train_batch_size", "4", "--use_cpu"]
TINY += ["--logging_steps", "1", "--learning_rate", "3.0e-3", "--save_strategy", "no", "--documents_cache", "caches"]
PRETRAIN = "pretrain --data story.txt --preset tiny-text --output runs/a --context-length 64".split()


def run_story(*words, documents="story.txt", output="runs/a"):
    words = ["--documents", documents, "--output_dir", output, *TINY, *words]
    last = {word: index for index, word in enumerate(words) if word.startswith("--")}  # what is said last counts
    kept = [
        word
        for index, word in enumerate(words)
        if last.get(word, index) == index
        and not (index and words[index - 1].startswith("--") and last[words[index - 1]] != index - 1)
    ]
    return train(*load_arguments(kept))
