"""Render a chat template with a time limit: the sandbox of transformers stops what a template may touch, not loops."""

import ctypes
import threading

from transformers.utils.chat_template_utils import render_jinja_template

SECONDS = 5.0  # a template takes milliseconds
TRIES = 10


class EndlessTemplateError(RuntimeError):
    """A chat template that did not end within the time limit."""


def render_bounded(seconds=SECONDS, **arguments):
    """As the function of transformers with this name, for at most `seconds`.

    Raises:
        EndlessTemplateError: when the template did not end. RuntimeError, so that no caller takes it for a fault of
            one conversation and tries the next.
    """
    outcome = {}

    def work():
        try:
            outcome["value"] = render_jinja_template(**arguments)
        except BaseException as error:  # handed on to the caller's thread
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        stop(thread)
        raise EndlessTemplateError(
            f"the chat template did not end within {seconds:g} s: it loops; replace chat_template.jinja"
        )
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def stop(thread):
    """Raise an exception inside the thread. Python does so between two bytecodes, of which every loop has some."""
    for _ in range(TRIES):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(EndlessTemplateError)
        )
        thread.join(0.1)
        if not thread.is_alive():
            return
