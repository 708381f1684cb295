"""Rendering of chat templates with a time limit, because the sandbox of transformers does not stop endless loops."""

import ctypes
import os
import threading
import time

from transformers.utils.chat_template_utils import render_jinja_template

SECONDS = 5.0  # a template takes less than a millisecond
POLL = 0.25


class EndlessTemplateError(RuntimeError):
    """A chat template that did not end within the time limit."""


class Watchdog:
    """One thread that ends renderings which take too long. One thread per rendering would cost more than rendering.

    It raises an exception inside the rendering thread. Python delivers the exception between two bytecodes.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.deadlines = {}  # identifier of a rendering thread → its deadline
        self.thread = None

    def watch(self):
        while True:
            time.sleep(POLL)
            with self.lock:
                now = time.monotonic()
                for thread, deadline in self.deadlines.items():
                    if now > deadline:
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(thread), ctypes.py_object(EndlessTemplateError)
                        )
                if not self.deadlines:
                    self.thread = None
                    return


WATCHDOG = Watchdog()
os.register_at_fork(after_in_child=WATCHDOG.__init__)  # the thread is not copied, and the lock may be held


def render_bounded(seconds=SECONDS, **arguments):
    """Call transformers' `render_jinja_template` for at most `seconds`.

    Raises:
        EndlessTemplateError: if the template did not end. It is a RuntimeError and not one of `chat_format.FAULTS`,
            so that no caller skips the conversation and tries the next.
    """
    try:
        with WATCHDOG.lock:
            WATCHDOG.deadlines[threading.get_ident()] = time.monotonic() + seconds
            if WATCHDOG.thread is None:
                WATCHDOG.thread = threading.Thread(target=WATCHDOG.watch, daemon=True)
                WATCHDOG.thread.start()
        try:
            return render_jinja_template(**arguments)
        finally:
            with WATCHDOG.lock:
                WATCHDOG.deadlines.pop(threading.get_ident(), None)
    except EndlessTemplateError:
        raise EndlessTemplateError(
            f"the chat template did not end within {seconds:g} s: it loops; replace chat_template.jinja"
        ) from None
