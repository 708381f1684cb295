"""Render a chat template with a time limit: the sandbox of transformers stops what a template may touch, not loops."""

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
    """One thread that ends renderings which take too long. A thread for each rendering would cost more than it.

    It raises an exception inside the rendering thread. Python does so between two bytecodes, of which a loop has some.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.deadlines = {}  # of the rendering threads, by their identifiers
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
    """As `render_jinja_template` of transformers, for at most `seconds`.

    Raises:
        EndlessTemplateError: when the template did not end. RuntimeError, so that no caller takes it for a fault of
            one conversation and tries the next.
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
