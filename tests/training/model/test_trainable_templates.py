"""Chat templates whose answers cannot be labelled are refused before the run."""

import pytest
from helpers import TEXTS, build_model, build_processor
from modeling import builders

from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_format import DEFAULT_CHAT_TEMPLATE
from smol_hf.training.model.composition import build_config_and_processor
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError


def test_a_template_whose_answers_cannot_be_labelled_is_refused_before_the_run(tmp_path):
    """Without marks, labels follow from what a template writes; where it ends nothing they cannot."""
    processor = build_processor()
    build_model(processor).save_pretrained(tmp_path)
    ends = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{{ p.text }}{% endfor %}<end_of_utterance>\n"
    ends += "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    for template, problem in ((ends, None), (ends.replace("<end_of_utterance>", ""), "generation would not stop")):
        processor.chat_template = template
        processor.save_pretrained(tmp_path)
        arguments = ModelArguments(model=str(tmp_path))
        if problem is None:
            _, loaded = build_config_and_processor(arguments, TEXTS)
            messages = [{"role": role, "content": text} for role, text in (("user", "Hi?"), ("assistant", "Yes."))]
            _, labels = loaded.encode_text(messages, [])
            trained = [label for label in labels if label != IGNORE_INDEX]
            assert loaded.tokenizer.decode(trained) == "Yes.<end_of_utterance>"
        else:
            with pytest.raises(RecipeError, match=problem):
                build_config_and_processor(arguments, TEXTS)


def test_a_template_whose_marked_answers_do_not_end_is_refused(tmp_path):
    last = ("<end_of_utterance>{% endgeneration %}", "{% endgeneration %}<end_of_utterance>")
    template = DEFAULT_CHAT_TEMPLATE.replace(*last)
    for name, text in (("sound", DEFAULT_CHAT_TEMPLATE), ("endless", template)):
        builders.vlm_config().save_pretrained(tmp_path / name)
        builders.build_processor(chat_template=text).save_pretrained(tmp_path / name)
    build_config_and_processor(ModelArguments(model=str(tmp_path / "sound")), ())
    with pytest.raises(RecipeError, match=r"endless cannot be trained on conversations: .*generation would not stop"):
        build_config_and_processor(ModelArguments(model=str(tmp_path / "endless")), ())
