"""The page of samples: what is trained is marked token by token, nothing of a record is ever code, and nothing is
fetched."""

import io
import re
from html.parser import HTMLParser

import pytest
from helpers import build_processor
from memory_source import MemorySource
from PIL import Image

from smol_hf.data.conversation import DOCUMENT, Conversation, ImagePart, Message, TextPart
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.report.label_spans import spans_of, token_texts
from smol_hf.data.report.preview_drawing import draw_samples
from smol_hf.data.report.preview_page import write_page
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan, RowStream

PROCESSOR = build_processor()
HOSTILE = (
    "</i></div><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} <image> <end_of_utterance> \"'&amp;"
)


def encoded(width=96, height=64, form="PNG"):
    stream = io.BytesIO()
    Image.effect_noise((width, height), 80).convert("RGB").save(stream, form)
    return stream.getvalue()


def conversation(name, question, answer, images=0, content=None):
    parts = tuple(ImagePart(content=content or encoded()) for _ in range(images))
    messages = (Message("user", (*parts, TextPart(question))), Message("assistant", (TextPart(answer),)))
    return Conversation(name, messages)


def plan_and_data(conversations, *, name="samples", context_length=400, **options):
    rows = [(each.sample_id, each) for each in conversations]
    data = Data([MemorySource(name, rows)], [None], [1.0])
    work = SampleWork(PROCESSOR, context_length, data.readers)
    return Plan(data.sources, data.weights, work, context_length, lanes=4, **options), data


def page_of(tmp_path, conversations, number=20, **options):
    plan, data = plan_and_data(conversations, **options)
    drawn = draw_samples(plan, number)
    path = write_page(tmp_path / "deep" / "page.html", drawn, data, plan, title="a <recipe>", facts={"seed": "<0>"})
    return path.read_text("utf-8"), drawn


class Page(HTMLParser):
    """Collects elements and the text inside tokens, and checks that every element is closed in order."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts, self.trained, self.chips = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.texts.append(data)
        tags = [tag for tag, _ in self.open]
        if tags and tags[-1] == "i" and "mark" in tags:
            self.trained.append(data)
        if self.open and "chip" in (self.open[-1][1].get("class") or "").split():
            self.chips.append(data)


def test_nothing_in_a_record_is_code_and_nothing_is_fetched(tmp_path):
    hostile = [
        conversation(HOSTILE, HOSTILE, HOSTILE, images=1),
        conversation("bad:2", HOSTILE, "x", images=1, content=b"<svg onload=alert(1)>"),
    ]
    html, drawn = page_of(tmp_path, hostile, name="<b>name</b>", context_length=2000)
    page = Page(html)
    assert len(drawn.samples) == len(drawn.left_out) == 1
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "b", "a", "form", "base", "svg"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:image/") or tag != "img"
        assert "src" not in attributes or tag == "img"
        assert attributes.get("href", "data:,") == "data:,"
    (policy,) = (each["content"] for _, each in page.elements if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:")
    assert "url(" not in html and "@import" not in html
    assert page.texts.count(HOSTILE) >= 2 and "<b>name</b>" in page.texts


def test_the_tokens_say_what_is_trained_and_what_the_template_wrote(tmp_path):
    answer = "naïve 🙂 漢字 <image> two\nlines"
    html, _ = page_of(tmp_path, [conversation("a:1", "What is <image>?", answer, images=1)])
    page = Page(html[html.index('<article class="panel"') :].partition("</main>")[0])
    assert "".join(page.trained) == " " + answer
    assert page.chips[-1] == "<end_of_utterance>" and page.chips[0] == "<|im_start|>"
    assert [chip for chip in page.chips if chip.startswith("<image>")] == ["<image> × 4"] * 5
    assert "<row_2_col_3>" not in page.chips and "<row_2_col_2>" in page.chips
    assert html.count('class="chip learnt"') == 1


def test_a_plain_text_is_shown_and_trained_from_its_first_word_to_its_end(tmp_path):
    html, _ = page_of(tmp_path, [Conversation("a:1", (Message(DOCUMENT, (TextPart("Once <image> was"),)),))])
    page = Page(html[html.index('<article class="panel"') :].partition("</main>")[0])
    assert "".join(page.trained) == "Once <image> was" and "document" in page.texts
    assert page.chips[0] == "<|im_start|>" and page.chips[-1] == "<end_of_utterance>"
    assert html.count('class="chip learnt"') == 1


@pytest.mark.parametrize(
    "text", ["plain words", "é漢🙂👩‍👩‍👧", "<image><|im_start|>", "tabs\t and\n\n breaks", "a  b"]
)
def test_pieces_are_the_text_cut_at_tokens(text):
    work = SampleWork(PROCESSOR, 400, [None])
    sample = work.prepare(0, "x", conversation("x", text, text))
    spans = spans_of(PROCESSOR, sample.input_ids, sample.labels)
    assert sum(span.tokens for span in spans) == len(sample.input_ids)
    assert sum(span.tokens for span in spans if span.trained) == sum(label != -100 for label in sample.labels)
    shown = "".join("".join(span.pieces) for span in spans)
    assert shown.replace("<end_of_utterance>", "").replace("<|im_start|>User:", "User:", 1).count(text) == 2
    learnt = [span for span in spans if span.trained]
    assert "".join(learnt[0].pieces) == f" {text}" and learnt[1].pieces == ("<end_of_utterance>",)


def test_tokens_that_make_no_character_are_shown_too():
    engine = PROCESSOR.tokenizer.backend_tokenizer
    halves = engine.encode("漢", add_special_tokens=False).ids
    for ids in (
        halves[:1],
        halves[1:] + halves[:2],
        [*halves[:1], *engine.encode("abc", add_special_tokens=False).ids],
    ):
        assert "".join(token_texts(PROCESSOR.tokenizer, ids)) == engine.decode(ids, skip_special_tokens=False)


def test_the_samples_are_those_that_a_run_draws_first(tmp_path):
    conversations = [conversation(f"a:{number}", f"{number}", "x") for number in range(40)]
    plan, _ = plan_and_data(conversations, seed=5)
    shown = [sample.conversation.sample_id for sample in draw_samples(plan, 9).samples]
    rows = iter(RowStream(plan))
    assert shown == [next(rows).samples[0].sample_id for _ in range(9)]
    other, _ = plan_and_data(conversations, seed=6)
    assert [sample.conversation.sample_id for sample in draw_samples(other, 9).samples] != shown
    assert len(draw_samples(plan, 100).samples) == 40


def test_what_a_weight_repeats_is_shown_once():
    rows = [conversation("a:1", "?", "x"), conversation("a:2", "?", "x", images=1, content=b"no")]
    plan, _ = plan_and_data(rows)
    plan.weights = [3.0]
    drawn = draw_samples(plan, 9)
    assert (len(drawn.samples), len(drawn.left_out), drawn.repeated, sum(drawn.drawn.values())) == (1, 1, 4, 6)


def test_pictures_show_where_they_stand_with_their_grid(tmp_path):
    parts = (TextPart("before"), ImagePart(content=encoded(96, 48)), TextPart("after"))
    messages = (Message("user", parts), Message("assistant", (TextPart("x"),)))
    html, _ = page_of(tmp_path, [Conversation("a:1", messages)])
    assert html.index(">before<") < html.index("<img") < html.index(">after<")
    assert "image 1: 96 × 48 pixels, 1 × 2 tiles and an overview" in html
    assert "--rows:1;--columns:2" in html and "3 tiles" in html


def test_what_is_left_out_stands_there_with_the_reason(tmp_path):
    conversations = [
        conversation("a:1", "?", "x"),
        conversation("a:2", "?", "x", images=1, content=b"no image"),
        conversation("a:3", "? " * 900, "x"),
    ]
    html, drawn = page_of(tmp_path, conversations)
    text = " ".join(Page(html).texts)
    assert "2 of the 3 records that were drawn: 1" in " ".join(text.split())
    assert "is not an image that can be read" in text and "more than context_length 400" in text
    assert sum(drawn.drawn.values()) == 3


def test_a_page_of_many_large_pictures_stays_small(tmp_path):
    large, many = encoded(1600, 1200, "JPEG"), encoded(640, 640)
    conversations = [
        conversation("a:1", "?", "x", images=1, content=large),
        conversation("a:2", "?", "x", images=30, content=many),
    ]
    html, _ = page_of(tmp_path, conversations, context_length=4000)
    addresses = re.findall(r'src="(data:image/[^"]+)"', html)
    assert len(addresses) == 25 and html.count("; not shown") == 6
    assert len(html) < 500_000


def test_long_texts_and_token_lists_are_cut_with_the_number_that_is_missing(tmp_path):
    html, _ = page_of(tmp_path, [conversation("a:1", "ab " * 4000, "x")], context_length=100_000)
    assert "… and 6,000 more characters" in html
    assert re.search(r"… and [\d,]+ more</p>", html)
    assert len(html) < 200_000


def test_a_source_of_nothing_but_faults_ends(tmp_path):
    rows = [conversation(f"a:{number}", "?", "x", images=1, content=b"no") for number in range(700)]
    html, drawn = page_of(tmp_path, rows)
    assert not drawn.samples and 500 <= len(drawn.left_out) <= 700
    assert "more. In all:" in html


def test_a_sample_that_was_shortened_shows_what_is_trained_and_what_it_lost(tmp_path):
    plan, data = plan_and_data([conversation("rows:1", "What?", "A.", images=1)], context_length=40)
    plan.work.too_long = ["tiles"]
    drawn = draw_samples(plan, 1)
    (sample,) = drawn.samples
    assert sample.lost == "longest_edge 32" and sample.num_tiles == sample.thumbnails[0].tiles == 1
    text = write_page(tmp_path / "page.html", drawn, data, plan, title="short", facts={}).read_text("utf-8")
    assert "shortened to fit: longest_edge 32" in text
