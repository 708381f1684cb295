"""The file of answers of an evaluation."""

import resource

import pytest

from smol_hf.evaluation.predictions import Predictions


def test_two_processes_do_not_write_one_folder(tmp_path):
    with Predictions(tmp_path, {}), pytest.raises(ValueError, match="another process evaluates into"):
        Predictions(tmp_path, {})


def test_a_full_disk_keeps_earlier_answers(tmp_path):
    entry = {"sample": "a:1", "view": "asked", "prediction": "x" * 100}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Predictions(tmp_path, {}) as predictions:
        predictions.add([entry])
        before = predictions.path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
        try:
            with pytest.raises(OSError, match=r"cannot be written: .*Earlier answers are kept: free space"):
                predictions.add([{**entry, "sample": "a:2"}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert predictions.path.read_bytes() == before
        predictions.add([{**entry, "sample": "a:3"}])
        assert predictions.path.read_bytes().count(b"\n") == 2


def test_a_text_with_other_breaks_of_lines_is_one_line(tmp_path):
    entry = {"sample": "a:1", "view": "asked", "prediction": "one\u2028two\x85three", "nats": 1, "answer_tokens": 1}
    with Predictions(tmp_path, {}) as predictions:
        predictions.add([entry])
    with Predictions(tmp_path, {}) as predictions:
        assert predictions.entries == {("asked", "a:1"): entry}
