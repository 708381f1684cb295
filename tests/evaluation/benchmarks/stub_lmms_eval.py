"""The few names of lmms-eval that the plug-in imports, so that it is tested without that package."""

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    chat_class_path: str


class Model:
    def __init__(self):
        self.task_dict = {}


class ChatMessages:
    """Messages with parts that have `type`, and `text` or `url`."""

    def __init__(self, messages):
        self.messages = [
            SimpleNamespace(role=each["role"], content=[part_of(**part) for part in each["content"]])
            for each in messages
        ]


def part_of(type, **more):
    return SimpleNamespace(type=type, **{"start_time": None, "end_time": None, **more})


def get_multi_choice_info(options):
    letters = [chr(ord("A") + index) for index in range(len(options))]
    return dict(zip(letters, options)), letters


def parse_multi_choice_response(answer, choices, index_to_answer):
    import random

    found = [letter for letter in choices if letter in answer]
    return found[0] if found else random.choice(choices)


def modules():
    """Name → module, for `sys.modules`."""
    contents = {
        "lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": Model}, "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
        "lmms_eval.protocol": {"ChatMessages": ChatMessages}, "lmms_eval.tasks": {}, "lmms_eval.tasks.mmmu": {},
        "lmms_eval.tasks.mmmu.utils": {
            "get_multi_choice_info": get_multi_choice_info, "parse_multi_choice_response": parse_multi_choice_response,
        },
    }  # fmt: skip
    made = {}
    for name, values in contents.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(values)
    return made
