"""Settings of every test run, and the files that `make test-fast` leaves out."""

import os

import fsspec
import pytest

# A process for each core (pytest-xdist) with one thread each: the models of the tests are too small for more.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

# Files whose tests train for long, launch processes or measure. Each area keeps files that are not named here.
SLOW = {
    # commands and documentation
    "test_commands_of_pages", "test_text_models_page",
    # data
    "test_fast_images", "test_hub_dataset", "test_kills", "test_text_tokenizer",
    # modeling and conversion
    "test_check", "test_combinations", "test_compile", "test_memory", "test_native_folder", "test_text_step",
    "test_travelling_code",
    # training
    "test_chat", "test_distributed", "test_documents", "test_documents_refused", "test_documents_resumed",
    "test_estimate", "test_failed_sources",
    "test_inherited_keys", "test_inherited_keys_of_dpo", "test_interruption", "test_lora", "test_lora_refused",
    "test_precision", "test_refused_values",
    "test_older_runs", "test_preference", "test_resume",
    "test_resume_policies", "test_run_folder", "test_counters",
    # publishing and whole runs
    "test_demo", "test_no_network", "test_space", "test_space_app", "test_space_in_browser", "test_upload",
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.path.stem != "test_demo")  # the longest test begins first


@pytest.fixture
def memory():
    """fsspec's files in memory: as far away as a bucket, and nothing is asked of a network."""
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)
