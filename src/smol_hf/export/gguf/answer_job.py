"""Answer prompts with llama.cpp in a process of its own.

Arguments: a JSON file with the job (see `asking.answer`), and the file of results: a line of JSON per prompt with
`tokens`, `prompt_tokens` and `top` (pairs of id and log probability of the first new token), or with `error`.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TELLS_TOKENS = 10  # the verbosity with which replies have the ids of all tokens


def end_with(parent: int) -> None:
    """End this process soon after its parent."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def start(job: dict[str, Any]) -> Any:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    options = xllamacpp.CommonParams()
    options.model.path = job["model"]
    if job["mmproj"]:
        options.mmproj.path = job["mmproj"]
    options.n_ctx = job["context"]
    options.n_parallel = 1
    options.n_gpu_layers = 0
    options.warmup = False
    options.use_jinja = True
    options.verbosity = TELLS_TOKENS
    if threads := os.environ.get("OMP_NUM_THREADS"):
        options.cpuparams.n_threads = int(threads)
    return xllamacpp.Server(options)


def ask(server: str, job: dict[str, Any], prompt: dict[str, Any]) -> dict[str, Any]:
    request = {"max_tokens": job["new_tokens"], "temperature": 0, "cache_prompt": False, "return_tokens": True}
    if job["chat"]:
        parts: list[dict[str, Any]] = [image_part(path) for path in prompt["images"]]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt["text"]}]}]
        request |= {"messages": messages, "logprobs": True, "top_logprobs": job["top"]}
        reply = post(f"{server}/v1/chat/completions", request)
    else:
        reply = post(f"{server}/v1/completions", {**request, "prompt": prompt["text"], "logprobs": job["top"]})
    if "choices" not in reply:
        return {"error": str(reply.get("error", {}).get("message") or reply)[:200]}
    tokens = reply["__verbose"]["tokens"]
    told = (reply["choices"][0].get("logprobs") or {}).get("content") or []
    top = told[0]["top_logprobs"] if told and tokens and is_first(told[0], tokens) else []
    return {
        "tokens": tokens,
        "prompt_tokens": reply["usage"]["prompt_tokens"],
        "top": [(token["id"], token["logprob"]) for token in top],
    }


def is_first(told: dict[str, Any], tokens: list[int]) -> bool:
    """Tell if these are the probabilities of the first token.

    The server leaves out tokens that are a part of a character, and then the first ones are of a later token.
    """
    try:
        bytes(told["bytes"]).decode()
    except UnicodeDecodeError:
        return False
    return told["id"] == tokens[0]


def post(url: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return the server's reply, also one of an error."""
    question = urllib.request.Request(url, json.dumps(request).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(question) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return json.load(error)


def image_part(path: str) -> dict[str, Any]:
    content = base64.b64encode(Path(path).read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    threading.Thread(target=end_with, args=(job["parent"],), daemon=True).start()
    server = start(job)
    with open(sys.argv[2], "w", encoding="utf-8") as results:
        for prompt in job["prompts"]:
            result = ask(server.listening_address, job, prompt)
            results.write(json.dumps(result) + "\n")
            results.flush()
            if "error" in result:
                break
    os._exit(0)  # the threads of the server would wait


if __name__ == "__main__":
    main()
