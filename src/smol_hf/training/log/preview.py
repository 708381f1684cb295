"""Tables before the first step: the parts of the model, and the trained tokens of the first batch."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.support.tokenizer_of import tokenizer_of
from smol_hf.training.model.parts import NEW_TOKENS, FreezeSchedule

SHOWN_SAMPLES = 3
SHOWN_TOKENS = 400


def print_parameter_table(counts: dict[str, dict[str, int]], schedule: FreezeSchedule) -> None:
    """Print the parameters of each part: total, trained at the first step, and the peak learning rate."""
    table = Table(title="Parameters", title_justify="left")
    table.add_column("part")
    table.add_column("total", justify="right")
    table.add_column("trained at first", justify="right")
    table.add_column("learning rate")
    for part, count in counts.items():
        frozen = schedule.is_frozen(part, 0)
        rate = f"{schedule.learning_rates[part]:g}" if schedule.ever_trains(part) else "frozen"
        if frozen and schedule.ever_trains(part):
            rate += f", from step {schedule.unfreeze_vision_at_step}"
        table.add_row(part, f"{count['total']:,}", "0" if frozen else f"{count['trainable']:,}", rate)
    if schedule.new_token_weights:
        table.add_row("rows of new tokens", "in text", "all", f"{schedule.learning_rates[NEW_TOKENS]:g}")
    total = sum(count["total"] for count in counts.values())
    trained = sum(count["trainable"] for part, count in counts.items() if not schedule.is_frozen(part, 0))
    table.add_section()
    table.add_row("all", f"{total:,}", f"{trained:,}", "")
    Console().print(table)


def print_label_preview(processor, batch: dict, sample_ids: list[str]) -> None:
    """Print the first samples of a batch, decoded, with trained text underlined and image tokens counted."""
    console = Console()
    shown = "underlined" if console.is_terminal else "between ⟦ and ⟧"
    console.print(f"First batch (trained text is {shown}):", style="bold")
    for sample_id, input_ids, labels in zip(sample_ids[:SHOWN_SAMPLES], *rows_of(batch)):
        text = preview(processor, input_ids, labels, marks=not console.is_terminal)
        console.print(Text(f"  {sample_id}: ", style="dim") + text, soft_wrap=True)
    console.print()


def rows_of(batch: dict) -> tuple[list[list[int]], list[list[int]]]:
    """Return the input_ids and the labels of each sample of a padded or packed batch."""
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        places = [(row, 0, length) for row, length in enumerate(lengths)]
        rows = {name: batch[name].tolist() for name in ("input_ids", "labels")}
    else:
        positions = batch["position_ids"].flatten().tolist()
        starts = [index for index, position in enumerate(positions) if position == 0]
        places = [(0, start, stop) for start, stop in zip(starts, [*starts[1:], len(positions)])]
        rows = {name: [batch[name].flatten().tolist()] for name in ("input_ids", "labels")}
    input_ids, labels = ([rows[name][row][start:stop] for row, start, stop in places] for name in rows)
    return input_ids, labels


def preview(processor, input_ids: list[int], labels: list[int], marks: bool = False) -> Text:
    """Return the text of a sample with `<image>` tokens counted and trained text underlined.

    With `marks`, trained text is also between ⟦ and ⟧, for a log file.
    """
    text = Text()
    tokens = list(zip(input_ids[:SHOWN_TOKENS], labels))
    tokenizer, image_token_id = tokenizer_of(processor), getattr(processor, "image_token_id", None)

    def kind(token):
        token_id, label = token
        return token_id == image_token_id, label != IGNORE_INDEX

    for (is_image, trained), group in groupby(tokens, kind):
        ids = [token_id for token_id, _ in group]
        if is_image:
            text.append(f"<image>×{len(ids)}", style="dim")
        else:
            decoded = str(tokenizer.decode(ids)).replace("\n", "↵")
            decoded = f"⟦{decoded}⟧" if trained and marks else decoded
            text.append(decoded, style="bold underline" if trained else "")
    if len(input_ids) > SHOWN_TOKENS:
        text.append(f" … and {len(input_ids) - SHOWN_TOKENS} more tokens", style="dim")
    return text
