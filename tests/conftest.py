"""Settings of every test run, and the files that `make test-fast` leaves out."""

import gc
import os

import fsspec
import pytest

# A process for each core (pytest-xdist) with one thread each: the models of the tests are too small for more.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a process of the compiler imports torch again
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")  # otherwise it compiles a program for each kind of vectors
gc.disable()  # until the tests are collected: imports make millions of objects, and hardly any garbage

# Files whose tests train for long, launch processes or measure. Each area keeps files that are not named here.
SLOW = {
    # commands and documentation
    "test_cli_data", "test_commands_of_pages", "test_follow", "test_mistakes", "test_text_models_page",
    "test_tutorials",
    # data
    "test_bad_input", "test_bad_records", "test_digits", "test_document_locations", "test_download",
    "test_fast_images", "test_hub_dataset", "test_kills", "test_open_source", "test_own_file", "test_stream",
    "test_text_tokenizer", "test_token_cache",
    # evaluation
    "test_evaluate", "test_same_score",
    # modeling and conversion
    "test_attacks", "test_check", "test_combinations", "test_compose", "test_composed_chat", "test_presets",
    "test_compile", "test_llava", "test_llava_models", "test_memory", "test_native_folder", "test_text_step",
    "test_travelling_code",
    # export
    "test_in_javascript", "test_onnx", "test_page",
    # training and inference
    "test_chat", "test_data", "test_distributed", "test_documents", "test_documents_refused", "test_documents_resumed",
    "test_estimate", "test_failed_sources", "test_generate", "test_prompts",
    "test_inherited_keys", "test_inherited_keys_of_dpo", "test_interruption", "test_lora", "test_lora_refused",
    "test_older_runs", "test_one_pass", "test_precision", "test_preference", "test_refused_values", "test_resume",
    "test_resume_policies", "test_run_folder", "test_shipped_recipes", "test_counters", "test_stages", "test_dry_run",
    "test_video_runs", "test_sharded", "test_sharded_checkpoints", "test_sharded_commands", "test_deepspeed",
    "test_stages_refused", "test_signalled_runs", "test_lost_processes", "test_slurm_job",
    # export
    "test_gguf", "test_gguf_llava",
    # publishing and whole runs
    "test_add_vision", "test_chains", "test_demo", "test_moving_digits", "test_no_network", "test_performance_page",
    "test_scaling_plan", "test_space", "test_space_app", "test_space_in_browser", "test_upload",
    # export
    "test_llama_server", "test_mlx", "test_served_inputs", "test_transformers_serve",
    # benchmarks
    "test_environment", "test_real_harnesses", "test_run",
}  # fmt: skip


def pytest_ignore_collect(collection_path, config):
    """Spare `make test-fast` the imports of the files that it leaves out."""
    return True if config.option.markexpr == "not slow" and collection_path.stem in SLOW else None


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    # The longest test begins first and short ones end the run, so that no process waits for a long one.
    items.sort(key=lambda item: (item.path.stem != "test_demo", item.get_closest_marker("slow") is None))


def pytest_collection_finish():
    freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or nextitem.path != item.path:
        freeze()


def freeze():
    """Spare the garbage collector what stays until the end, such as modules. A Trainer collects after each run."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def memory():
    """fsspec's files in memory: as far away as a bucket, and nothing is asked of a network."""
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)
