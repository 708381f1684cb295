"""Videos in rows: measured without decoding, decoded at the measured times, and mixed with images and texts."""

import io
import json

import numpy as np
import pytest
import torch
from helpers import build_model, build_processor
from image_corpus import encoded
from memory_source import MemorySource
from PIL import Image
from video_clips import clip, even_times, number_in, numbered

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart, TooLongError, VideoPart
from smol_hf.data.media import videos
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.record_use import RecordUse, describe_use
from smol_hf.data.stream.shortening import check_losses
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.data.stream.survey import survey
from smol_hf.processing.video_sampling import FrameTimes
from smol_hf.text.chat import TextChat, TextChatWork

TENS = clip(even_times(100, 10), gop=30, bframes=2)  # ten seconds
DAMAGED = clip(even_times(300, 10), gop=10, options={"crf": "5"}, movflags="faststart")


def picture(width=40, height=30):
    stream = io.BytesIO()
    Image.effect_noise((width, height), 80).convert("RGB").save(stream, "PNG")
    return ImagePart(content=stream.getvalue())


def conversation(name, *media, question="What is this?"):
    messages = (Message("user", (*media, TextPart(question))), Message("assistant", (TextPart("A picture."),)))
    return Conversation(name, messages)


def work_for(processor, context_length=2000, **options):
    return SampleWork(processor, context_length, [None], **options)


def prepared(sample, processor=None, context_length=2000, **options):
    work = work_for(processor or build_processor(), context_length, **options)
    return work, work.prepare(0, sample.sample_id, sample)


def never(*_):
    raise AssertionError("measuring decodes nothing")


def test_a_video_is_measured_without_decoding_and_decoded_at_the_measured_times(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(videos, "read_frames", never)
        work, sample = prepared(conversation("rows:1", VideoPart(content=TENS)))
    [chosen] = sample.videos
    assert chosen.duration == 10 and len(chosen.times) == 10 and chosen.times[-1] == pytest.approx(9.9)
    assert sample.num_tiles == 10
    ready = work.encode(0, sample)
    assert ready.modality == "video" and ready.tiles.shape == (10, 3, 32, 32)
    assert len(ready.input_ids) == sample.num_tokens
    assert (ready.input_ids == work.processor.image_token_id).sum() == 40
    shown = [number_in(Image.fromarray(tile.permute(1, 2, 0).numpy())) for tile in ready.tiles]
    assert shown == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]


def test_the_text_around_the_frames():
    work, sample = prepared(conversation("rows:1", VideoPart(content=TENS, start=4.0, end=7.0)))
    text = work.processor.tokenizer.decode(sample.input_ids)
    assert "the following series of three frames from a 0:00:03 [H:MM:SS] video.\n\nFrame from 00:00:" in text
    assert "Frame from 00:02:" in text and "\n\nWhat is this?" in text
    given = [{"type": "video"}, {"type": "text", "text": "What is this?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A picture."}]}
    frames = FrameTimes(sample.videos[0].times, 3.0)
    ids, _ = work.processor.encode_text([{"role": "user", "content": given}, answer], [frames])
    assert ids == sample.input_ids


def test_pixels_of_a_frame_are_those_of_an_image():
    frames = [Image.fromarray(numbered(number, 120, 90)) for number in range(3)]
    part = VideoPart(content=b"frames")
    processor = build_processor(video_frame_size=64)
    chosen = videos.ChosenFrames((0.0, 1.0, 2.0), 3.0, tuple(encoded(image, "PNG") for image in frames))
    tiles = [processor.frame_tiler.tiles(image) for image in videos.load_frames(part, chosen, "rows:1")]
    expected = processor.with_settings(do_image_splitting=False, longest_edge=64).tiles(frames)
    assert np.array_equal(np.concatenate(tiles), expected) and len(expected) == 3


def test_a_mixed_packed_batch_of_videos_images_and_texts():
    processor = build_processor()
    samples = [
        conversation("rows:1", VideoPart(content=TENS)),
        conversation("rows:2", picture(), picture(90, 30)),
        conversation("rows:3", picture()),
        conversation("rows:4"),
        conversation("rows:5", picture(), VideoPart(content=TENS, end=2.0), picture()),
    ]
    plan = Plan([MemorySource("m", [(each.sample_id, each) for each in samples])], [1.0], work_for(processor), 2000,
                rounds=1, lanes=1, pool_size=8)  # fmt: skip
    row = next(iter(RowStream(plan)))
    assert {each.sample_id: each.modality for each in row.samples} == {
        "rows:1": "video", "rows:2": "multiimage", "rows:3": "image", "rows:4": "text", "rows:5": "video",
    }  # fmt: skip
    batch = SmolCollator(processor, packing=True)(row.samples)
    tiles = sum(len(each.tiles) for each in row.samples)
    assert batch["pixel_values"].shape[0] == tiles
    assert (batch["input_ids"] == processor.image_token_id).sum() == tiles * processor.image_seq_len
    torch.manual_seed(0)
    model = build_model(processor)
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    assert torch.isfinite(loss) and model.vision_model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_packing_counts_a_frame_as_a_tile():
    processor = build_processor(video_fps=100, video_max_frames=64)
    samples = [conversation(f"rows:{number}", VideoPart(content=TENS)) for number in range(4)]
    samples += [conversation(f"rows:{number}") for number in range(4, 8)]
    work = work_for(processor, 12_000)
    first = work.prepare(0, "rows:0", samples[0])
    assert first.num_tiles == 64
    plan = Plan([MemorySource("m", [(each.sample_id, each) for each in samples])], [1.0], work, 12_000,
                rounds=1, lanes=1, pool_size=8, max_tiles=130)  # fmt: skip
    rows = []
    for row in RowStream(plan):
        if row.finished:
            break
        rows.append([len(each.tiles) for each in row.samples])
    assert [sum(row) for row in rows] == [128, 128] and sum(map(len, rows)) == 8


def test_frames_are_lost_before_a_sample_is():
    sample = conversation("rows:1", VideoPart(content=TENS), picture(), VideoPart(content=TENS, start=0.0, end=3.0))
    processor = build_processor(longest_edge=32)
    _, whole = prepared(sample, processor)
    assert [len(each.times) for each in whole.videos] == [10, 3]
    with pytest.raises(TooLongError):
        prepared(sample, processor, whole.num_tokens - 1)
    work, shorter = prepared(sample, processor, whole.num_tokens - 1, too_long=["tiles", "frames"])
    assert [len(each.times) for each in shorter.videos] == [9, 3] and shorter.lost == "9 of 10 frames"
    assert shorter.videos[0].times[0] == 0 and shorter.videos[0].times[-1] == pytest.approx(9.9)
    ready = work.encode(0, shorter)
    assert len(ready.tiles) == 13 and ready.lost == shorter.lost
    _, two = prepared(sample, processor, whole.num_tokens // 2, too_long=["frames", "turns"])
    longest = max(number for number in range(1, 10) if fits(sample, processor, number, whole.num_tokens // 2))
    assert max(len(each.times) for each in two.videos) == longest
    few = build_processor(longest_edge=32, video_min_frames=8)
    with pytest.raises(TooLongError):
        prepared(sample, few, whole.num_tokens // 2, too_long=["frames"])
    check_losses(["frames", "tiles"])


def fits(sample, processor, most, context_length):
    limited = processor.with_settings(video_max_frames=most)
    return prepared(sample, limited)[1].num_tokens <= context_length


def test_a_damaged_video_is_left_out_when_a_row_meets_it_or_before():
    damaged = bytearray(DAMAGED)
    middle = len(damaged) // 2
    damaged[middle : middle + 300] = bytes(300)
    rows = [conversation("rows:1", VideoPart(content=bytes(damaged))), conversation("rows:2")]
    rows.append(SampleError("rows:3", "no record"))
    source = MemorySource("m", [(getattr(each, "sample_id", "rows:3"), each) for each in rows])
    work = SampleWork(build_processor(), 2000, [lambda where, record: record])
    plan = Plan([source], [1.0], work, 2000, rounds=1, lanes=1, pool_size=4)
    assert [fault.where for fault in survey(plan).faults] == ["rows:3"]
    verified = survey(plan, verify_images=True).faults
    assert [fault.where for fault in verified] == ["rows:1", "rows:3"]
    row = next(iter(RowStream(plan)))
    assert [each.sample_id for each in row.samples] == ["rows:2"]
    assert {fault.where for fault in row.faults} == {"rows:1", "rows:3"}
    assert "the video the embedded video cannot be used: it is damaged" in str(verified[0])


def test_a_text_only_model_refuses_a_video():
    tokenizer = build_processor().tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    work = TextChatWork(TextChat(tokenizer), 200, [None])
    with pytest.raises(SampleError, match="rows:1: has a video, but the model is text-only"):
        work.prepare(0, "rows:1", conversation("rows:1", VideoPart(content=TENS)))


def test_the_survey_counts_frames_and_seconds_and_lists_files(tmp_path):
    (tmp_path / "a.mp4").write_bytes(TENS)
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        Image.fromarray(numbered(number)).save(frames / f"{number}.png")
    sample = conversation("rows:1", VideoPart(path=str(tmp_path / "a.mp4")), VideoPart(path=str(frames)))
    plan = Plan([MemorySource("m", [("rows:1", sample)])], [1.0], work_for(build_processor()), 2000)
    found = survey(plan)
    size = found.found[0, "rows:1"]
    assert (size.num_frames, size.seconds, size.num_images, size.num_tiles) == (13, 13.0, 0, 13)
    assert [path.rpartition("/")[2] for path in found.images[0]] == ["a.mp4", "frames", "0.png", "1.png", "2.png"]
    assert found.use[0].videos == 2
    json.dumps(found.use[0].facts())


def test_videos_outside_the_folder_are_counted_too(tmp_path):
    inside, outside = tmp_path / "media", tmp_path / "private"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.mp4").write_bytes(b"video")
    (inside / "link.mp4").symlink_to(outside / "a.mp4")
    paths = [inside / "a.mp4", inside / "link.mp4", outside / "a.mp4", outside]
    use = RecordUse()
    use.add(conversation("rows:1", *(VideoPart(path=str(path)) for path in paths)), inside)
    facts = use.facts()
    assert (facts["media_outside"], facts["example_outside"]) == (3, f"{inside / 'link.mp4'} (rows:1)")
    [line] = describe_use(facts)
    assert line.startswith("images and videos outside the folder of images: 3, such as ")
