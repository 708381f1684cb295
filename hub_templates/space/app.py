"""A page to chat with a checkpoint, or to continue a text with it. `python app.py` serves it.

The checkpoint is the `model_id` of space.json, or the environment variable MODEL_ID: a folder or a repository on the
Hub. MODEL_REVISION is its branch, tag or commit.
"""

import asyncio
import html
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import gradio as gr
from checkpoint import load
from conversation import NOTE, messages_of
from literal import literal
from writer import Problem, Sampling, Writer

FOLDER = Path(__file__).resolve().parent
LARGEST_SEED = 2**32 - 1
THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
)
INVITATION = "Write a message below, or select an example."
CSS = (FOLDER / "style.css").read_text(encoding="utf-8")


def build(writer: Writer, settings: dict) -> gr.Blocks:
    """Build the page.

    Args:
        settings: the content of space.json: `model_id`, `title` and `examples`, each with a `text` and maybe `images`.
    """
    with gr.Blocks(
        title=settings["title"], fill_height=True, analytics_enabled=False, delete_cache=(3600, 86400)
    ) as page:
        gr.HTML(header(writer, settings), elem_id="header")
        if writer.warning:
            gr.HTML(f'<p role="alert">{emphasised(writer.warning)}</p>', elem_id="warning")
        (chat if writer.chats else continuation)(writer, settings.get("examples", []))
    return page.queue(default_concurrency_limit=1, max_size=32)


def header(writer: Writer, settings: dict) -> str:
    """Return the name and facts of the model as HTML, with a link to its repository on the Hub."""
    kind = "Vision-language model" if writer.sees_images else "Chat model" if writer.chats else "Language model"
    facts = [kind, f"{compact(writer.parameters)} parameters"]
    if writer.positions:
        facts.append(f"{writer.positions:,} tokens of context")
    facts.append({"cuda": "on a GPU", "cpu": "on a CPU"}.get(writer.model.device.type, writer.model.device.type))
    model_id = settings["model_id"]
    if not Path(model_id).exists():
        facts.append(f'<a href="https://huggingface.co/{html.escape(model_id)}" target="_blank">on the Hub</a>')
    shown_facts = " ".join(f"<span>{fact}</span>" for fact in facts)
    return f"<h1>{html.escape(settings['title'])}</h1><p>{shown_facts}</p>"


def compact(number: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def emphasised(warning: str) -> str:
    first, colon, rest = warning.partition(":")
    return f"<strong>{html.escape(first)}{colon}</strong>{html.escape(rest)}"


def chat(writer: Writer, examples: list[dict]) -> None:
    async def answer(message, history, *options):
        text, files = (message, []) if isinstance(message, str) else (message["text"], message["files"])
        try:
            written = ""
            messages = await asyncio.to_thread(messages_of, history, text, files)
            async for written in followed(writer.answer, messages, sampling_of(*options)):
                yield written
            if not written:
                raise Problem("The answer is empty: the model ended it at once.")
        except Problem as problem:
            yield gr.ChatMessage(content=str(problem), metadata={"title": NOTE})

    chatbot = gr.Chatbot(
        elem_id="chat",
        show_label=False,
        scale=1,
        min_height=280,
        layout="bubble",
        buttons=["copy"],
        feedback_options=None,
        placeholder=INVITATION if examples else None,
    )
    box_options = {"submit_btn": True, "stop_btn": True, "max_lines": 12, "autofocus": True, "elem_id": "prompt"}
    if writer.sees_images:
        kinds = ["image", "video"] if writer.sees_videos else ["image"]
        files = {"sources": ["upload"], "file_types": kinds, "file_count": "multiple"}
        asked = "Ask about an image or a video" if writer.sees_videos else "Ask about an image"
        box = gr.MultimodalTextbox(placeholder=asked, **files, **box_options)
    else:
        box = gr.Textbox(placeholder="Write a message", **box_options)
    gr.ChatInterface(
        answer,
        multimodal=writer.sees_images,
        chatbot=literal(chatbot),
        textbox=box,
        additional_inputs=sampling_controls(writer, render=False),
        additional_inputs_accordion=gr.Accordion("Sampling", open=False, elem_id="sampling", render=False),
        examples=[[example_of(writer, each)] for each in examples] or None,
        cache_examples=False,
        analytics_enabled=False,
        api_name="chat",
    )


async def followed(write, prompt, sampling: Sampling) -> AsyncIterator[str]:
    """Yield what a method of the writer yields. Stop the model if the visitor presses Stop or closes the page."""
    stopped = Event()
    try:
        pieces = await asyncio.to_thread(write, prompt, sampling, stopped)
        while (written := await asyncio.to_thread(next, pieces, None)) is not None:
            yield written
    finally:
        stopped.set()


def example_of(writer: Writer, example: dict):
    if not writer.sees_images:
        return example["text"]
    return {"text": example["text"], "files": [str(FOLDER / name) for name in example.get("images", [])]}


def continuation(writer: Writer, examples: list[dict]) -> None:
    async def go_on(text, *options):
        try:
            written = ""
            async for written in followed(writer.continue_text, text, sampling_of(*options)):
                yield shown(text, written)
            if not written:
                raise Problem("The model added nothing: it ended the text here.")
        except Problem as problem:
            yield shown(text, "", str(problem))

    prompt = gr.Textbox(
        label="Text to continue",
        placeholder="Once upon a time",
        lines=5,
        max_lines=16,
        autofocus=True,
        elem_id="prompt",
    )
    if examples:
        gr.Examples([each["text"] for each in examples], prompt, label="Examples", elem_id="examples")
    with gr.Row(elem_id="buttons"):
        start = gr.Button("Continue", variant="primary", elem_id="continue")
        stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop")
    written = gr.HTML(shown("", ""), elem_id="written")
    with gr.Accordion("Sampling", open=False, elem_id="sampling"):
        controls = sampling_controls(writer)

    def buttons(running):
        return lambda: (gr.update(interactive=not running), gr.update(interactive=running))

    begun = start.click(buttons(True), None, [start, stop], queue=False, api_visibility="private")
    writing = begun.then(go_on, [prompt, *controls], written, show_progress="hidden", api_name="continue")
    writing.then(buttons(False), None, [start, stop], queue=False, api_visibility="private")
    stop.click(buttons(False), None, [start, stop], cancels=writing, queue=False, api_visibility="private")


def shown(text: str, written: str, problem: str = "") -> str:
    """Return a text and its continuation as HTML."""
    if problem:
        return f'<p class="problem" role="alert">{html.escape(problem)}</p>'
    if not written:
        return '<p class="empty">The continuation appears here.</p>'
    return f'<p class="text" aria-live="polite"><span>{html.escape(text)}</span><ins>{html.escape(written)}</ins></p>'


def sampling_controls(writer: Writer, render: bool = True) -> list:
    """Make the controls, in the order of `sampling_of`. The checkpoint's generation_config.json sets their values."""
    config = writer.model.generation_config
    own = {name: getattr(config, name, None) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    if not config.do_sample:  # greedy answers about images, varied texts
        own = {"temperature": 0.0 if writer.sees_images else 0.8, "repetition_penalty": own["repetition_penalty"]}
    penalty = own["repetition_penalty"] or 1
    most = min(2048, writer.positions or 2048)
    options = {"render": render}
    return [
        gr.Slider(0, 2, own["temperature"], step=0.05, label="Temperature", info="0: likeliest token", **options),
        gr.Slider(0.05, 1, own.get("top_p") or 1, step=0.05, label="Top-p", info="1: off", **options),
        gr.Slider(0, 200, own.get("top_k") or 0, step=1, label="Top-k", info="0: off", **options),
        gr.Slider(1, 2, penalty, step=0.05, label="Repetition penalty", info="1: off", **options),
        gr.Slider(1, most, min(256, most), step=1, label="Maximum length", info="in tokens", **options),
        gr.Number(
            -1, label="Seed", info="-1: random", precision=0, minimum=-1, maximum=LARGEST_SEED, **options
        ),
    ]  # fmt: skip


def sampling_of(temperature, top_p, top_k, repetition_penalty, max_new_tokens, seed) -> Sampling:
    return Sampling(
        temperature=float(temperature),
        top_p=float(top_p),
        top_k=int(top_k),
        repetition_penalty=float(repetition_penalty),
        max_new_tokens=int(max_new_tokens),
        seed=None if seed is None or seed < 0 else int(seed),
    )


def serve(settings: dict, *, trust_remote_code: bool = True, **options) -> None:
    """Load the checkpoint of `settings` and serve its page until the process is interrupted.

    Args:
        options: options of Gradio's `launch`.

    Raises:
        Problem: if the checkpoint cannot be loaded.
    """
    writer = load(settings["model_id"], settings.get("revision"), trust_remote_code=trust_remote_code)
    page = build(writer, settings)
    page.launch(theme=THEME, css=CSS, max_file_size="30mb", footer_links=["gradio"], **options)


def main() -> int:
    settings = json.loads((FOLDER / "space.json").read_text(encoding="utf-8"))
    if model_id := os.environ.get("MODEL_ID"):
        settings |= {"model_id": model_id, "title": Path(model_id).name, "revision": None, "examples": []}
    settings["revision"] = os.environ.get("MODEL_REVISION") or settings.get("revision")
    try:
        serve(settings)
    except Problem as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
