"""Answer prompts with llama.cpp in a process of its own.

Arguments: a JSON file with the job (see `asking.answer`), and the file of results: a line of JSON per prompt with
`tokens`, `prompt_tokens` and `top` (pairs of id and log probability of the first new token), or with `error`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import xllamacpp  # type: ignore[import-not-found]


def end_with(parent: int) -> None:
    """End this process soon after its parent."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def start(job: dict[str, Any]):
    options = xllamacpp.CommonParams()
    options.model.path = job["model"]
    if job["mmproj"]:
        options.mmproj.path = job["mmproj"]
    options.n_ctx = job["context"]
    options.n_parallel = 1
    options.n_gpu_layers = 0
    options.warmup = False
    options.use_jinja = True
    options.verbosity = 0
    if threads := os.environ.get("OMP_NUM_THREADS"):
        options.cpuparams.n_threads = int(threads)
    return xllamacpp.Server(options)


def ask(server, job: dict[str, Any], prompt: dict[str, Any]) -> dict[str, Any]:
    request = {"max_tokens": job["new_tokens"], "temperature": 0, "cache_prompt": False}
    if job["chat"]:
        parts: list[dict[str, Any]] = [image_part(path) for path in prompt["images"]]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt["text"]}]}]
        request |= {"messages": messages, "logprobs": True, "top_logprobs": job["top"]}
        reply = server.handle_chat_completions(request)
    else:
        reply = server.handle_completions({**request, "prompt": prompt["text"], "logprobs": job["top"]})
    if "choices" not in reply:
        return {"error": reply.get("message") or reply.get("error", {}).get("message") or str(reply)[:200]}
    told = (reply["choices"][0].get("logprobs") or {}).get("content") or []
    return {
        "tokens": [token["id"] for token in told],
        "prompt_tokens": reply["usage"]["prompt_tokens"],
        "top": [(token["id"], token["logprob"]) for token in (told[0]["top_logprobs"] if told else [])],
    }


def image_part(path: str) -> dict[str, Any]:
    content = base64.b64encode(Path(path).read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    threading.Thread(target=end_with, args=(job["parent"],), daemon=True).start()
    server = start(job)
    with open(sys.argv[2], "w", encoding="utf-8") as results:
        for prompt in job["prompts"]:
            result = ask(server, job, prompt)
            results.write(json.dumps(result) + "\n")
            results.flush()
            if "error" in result:
                break
    os._exit(0)  # the threads of the server would wait


if __name__ == "__main__":
    main()
