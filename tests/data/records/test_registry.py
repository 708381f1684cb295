"""Which adapter reads a record; adapters of other packages."""

import importlib.metadata
import json
import subprocess
import sys

import pytest
from records import PLACE, fault_of

from smol_hf.data.conversation import Conversation, Message, TextPart
from smol_hf.data.records import adapt, adapter, find_adapter, known_adapters, registry
from smol_hf.data.records.registry import AdapterError

READ_BY = {
    "HuggingFaceM4/FineVision": "texts",
    "HuggingFaceM4/the_cauldron": "texts",
    "HuggingFaceM4/Docmatix": "texts",
    "lmms-lab/LLaVA-OneVision-Data": "llava",
    "MAmmoTH-VL/MAmmoTH-VL-Instruct-12M": "llava",
    "lmms-lab/M4-Instruct-Data": "llava",
    "lmms-lab/LLaVA-Video-178K": "llava_video",
    "HuggingFaceFV/finevideo": "finevideo",
    "orrzohar/Video-STaR": "llava_unmarked",
    "Mutonix/Vript": "vript",
    "TIGER-Lab/VISTA-400K": "llava_unmarked",
    "Enxin/MovieChat-1K_train": "moviechat",
    "ShareGPT4Video/ShareGPT4Video": "sharegpt4video",
    "liuhaotian/LLaVA-Instruct-150K": "llava",
    "Lin-Chen/ShareGPT4V": "llava",
    "liuhaotian/LLaVA-Pretrain": "llava",
    "lmms-lab/LLaVA-ReCap-558K": "llava",
    "HuggingFaceM4/COCO": "coco",
    "google-research-datasets/conceptual_captions": "conceptual_captions",
    "HuggingFaceTB/smoltalk": "messages",
    "HuggingFaceTB/smol-smoltalk": "messages",
}
PAIR = Conversation("rows:1", (Message("user", (TextPart("a"),)), Message("assistant", (TextPart("b"),))))


@pytest.fixture
def fresh(monkeypatch):
    """A registry of its own, in which nothing of other packages is loaded yet."""
    monkeypatch.setattr(registry, "ADAPTERS", dict(registry.ADAPTERS))
    registry.load_entry_points.cache_clear()
    yield
    registry.load_entry_points.cache_clear()


@pytest.mark.parametrize("dataset", READ_BY)
def test_every_dataset_has_its_adapter(dataset):
    assert find_adapter(dataset=dataset).name == READ_BY[dataset]
    assert find_adapter(dataset=dataset.upper(), record={"messages": []}).name == READ_BY[dataset]


def test_a_name_comes_before_a_dataset_and_a_dataset_before_the_keys():
    record = {"messages": []}
    assert find_adapter("coco", "HuggingFaceM4/Docmatix", record).name == "coco"
    assert find_adapter(None, "HuggingFaceM4/Docmatix", record).name == "texts"
    assert find_adapter(None, "someone/else", record).name == "messages"
    assert find_adapter(None, None, record).name == "messages"


@pytest.mark.parametrize(
    "asked, problem",
    [
        (
            {"name": "lava"},
            r"unknown adapter 'lava': did you mean 'llava'\? \(there are alpaca, captions, coco, .*vript\)",
        ),
        ({"name": "xyz"}, r"unknown adapter 'xyz' \(there are"),
        ({"dataset": "HuggingFaceM4/FineVison"}, "did you mean 'HuggingFaceM4/FineVision'"),
        ({}, "give one of them"),
    ],
)
def test_what_is_not_known_is_an_error_with_the_nearest(asked, problem):
    with pytest.raises(AdapterError, match=problem):
        find_adapter(**asked)


def test_a_misspelt_name_stops_the_run_and_a_strange_record_does_not():
    with pytest.raises(AdapterError, match="unknown adapter"):
        adapt({"messages": []}, PLACE, name="mesages")
    problem = fault_of({"x": 1, "texts": None})
    assert problem.startswith(
        "needs the key 'conversations' or 'messages', or the keys of another known shape; it has ['texts', 'x']. "
    )
    assert "one of alpaca, captions, coco" in fault_of({}, dataset="someone/else")
    assert "a record is a JSON object, not list" in fault_of([1])


def test_a_record_of_two_shapes_names_both():
    problem = fault_of({"messages": [], "texts": []})
    assert problem.startswith("has both 'messages' and 'texts'") and "name the adapter (messages, texts)" in problem
    assert "has both the keys of captions and 'info' with 'global'" in fault_of(
        {"image": "a.png", "caption": "x", "info": {}, "global": []}
    )


def test_a_caption_beside_a_conversation_does_not_decide():
    conversations = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A cat."}]
    record = {"image": "a.png", "caption": "A cat.", "conversations": conversations}
    assert adapt(record, PLACE).messages[1].parts == (TextPart("A cat."),)


def test_the_decorator_registers_and_gives_the_function_back(fresh):
    @adapter("mine", datasets=("me/mine",), shape=("my_key", "other"))
    def read(record, place):
        return PAIR

    assert read({}, PLACE) is PAIR
    assert "mine" in known_adapters()
    for found in (
        find_adapter("mine"),
        find_adapter(dataset="Me/Mine"),
        find_adapter(record={"other": 0, "my_key": ""}),
    ):
        assert found.read is read
    assert adapt({"my_key": 1, "other": 2}, PLACE) is PAIR
    assert "needs the key" in fault_of({"my_key": 1, "other": None})


def test_without_a_shape_the_keys_never_decide(fresh):
    adapter("mine")(lambda record, place: PAIR)
    assert find_adapter("mine").fits({"messages": []}) is False


def test_duplicates_are_refused(fresh):
    with pytest.raises(AdapterError, match="there is an adapter 'llava' already"):
        adapter("llava")(lambda record, place: PAIR)
    with pytest.raises(AdapterError, match="'coco' reads huggingfacem4/coco already: 'mine' cannot claim it too"):
        adapter("mine", datasets=("huggingfacem4/coco",))(lambda record, place: PAIR)
    assert "mine" not in known_adapters()


@pytest.mark.parametrize("given", [None, {"role": "user"}])
def test_what_is_no_conversation_is_the_adapters_fault(fresh, given):
    adapter("mine")(lambda record, place: given)
    with pytest.raises(AdapterError, match=f"the adapter 'mine' gave {type(given).__name__}, not a Conversation"):
        adapt({}, PLACE, name="mine")


def test_an_adapter_that_finds_no_answer_is_a_fault_of_the_record(fresh):
    adapter("mine")(lambda record, place: Conversation("rows:1", PAIR.messages[:1]))
    assert "no assistant turn" in fault_of({}, name="mine")


# -- adapters of other packages ---------------------------------------------------------------------------------------

PLUGIN = """
from smol_hf.data.records import adapter
from smol_hf.data.conversation import Conversation, Message, TextPart

@adapter("ours", datasets=("us/ours",), shape=("our_key",))
def read(record, place):
    words = [Message("user", (TextPart("?"),)), Message("assistant", (TextPart(record["our_key"]),))]
    return Conversation(place.where, tuple(words))
"""
ENTRY_POINTS = """[smol_hf.adapters]
ours = plugin_of_ours:read
broken = plugin_that_fails
nowhere = plugin_that_is_not_there
silent = plugin_without_adapters
again = plugin_that_repeats
"""


@pytest.fixture
def plugins(fresh, tmp_path, monkeypatch):
    """A folder on the path as an installed package leaves it, with good and bad entry points."""
    files = {
        "plugin_of_ours.py": PLUGIN,
        "plugin_that_fails.py": "raise RuntimeError('no licence found')",
        "plugin_without_adapters.py": "",
        "plugin_that_repeats.py": PLUGIN.replace('"ours"', '"llava"'),
        "plugins-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: plugins\nVersion: 1.0\n",
        "plugins-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
    }
    (tmp_path / "plugins-1.0.dist-info").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]


@pytest.mark.parametrize("asked", [{"name": "ours"}, {"dataset": "us/ours"}, {}])
def test_an_adapter_of_another_package_is_found(plugins, asked):
    read = adapt({"our_key": "yes"}, PLACE, **asked)
    assert read.messages[1].parts == (TextPart("yes"),)


def test_an_adapter_of_another_package_is_found_by_its_dataset_alone(plugins):
    assert find_adapter(dataset="US/ours").name == "ours"


@pytest.mark.parametrize(
    "name, problem",
    [
        ("broken", "'broken' of another package .* plugin_that_fails: RuntimeError: no licence found"),
        ("nowhere", "plugin_that_is_not_there: ModuleNotFoundError"),
        ("silent", "plugin_without_adapters registers no adapter of this name"),
        ("again", "AdapterError: there is an adapter 'llava' already"),
    ],
)
def test_a_broken_one_is_an_error_only_when_it_is_asked_for(plugins, name, problem):
    assert find_adapter("llava").name == "llava"
    assert adapt({"our_key": "yes"}, PLACE).messages
    assert set(known_adapters()) & {"broken", "nowhere", "silent", "again", "ours"} == {"ours"}
    for _ in range(2):
        with pytest.raises(AdapterError, match=problem):
            adapt({"our_key": "yes"}, PLACE, name=name)


def test_other_packages_are_loaded_late_and_once(plugins, monkeypatch):
    calls = []
    real = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **which: calls.append(which) or real(**which))
    find_adapter("llava")
    find_adapter(dataset="HuggingFaceM4/COCO")
    assert calls == [] and "plugin_of_ours" not in sys.modules
    for _ in range(3):
        adapt({"our_key": "yes"}, PLACE)
    assert calls == [{"group": "smol_hf.adapters"}] and "plugin_of_ours" in sys.modules


def test_an_interrupt_while_loading_is_not_swallowed(plugins):
    (plugins / "plugin_that_fails.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        known_adapters()


@pytest.mark.slow
def test_a_fresh_process_finds_them_too(plugins):
    script = "from smol_hf.data.records import known_adapters as k; import json; print(json.dumps(k()))"
    path = [str(plugins), *sys.path]
    program = f"import sys; sys.path[:] = {path!r}\n{script}"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == list(known_adapters()) and "ours" in json.loads(output)
