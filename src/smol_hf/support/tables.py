"""Print lines and tables without breaking a word, such as the name of a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDEST = 10_000  # characters


def print_parts(console: Console, parts: Iterable[str | Table]) -> None:
    """Print lines without breaking them, and tables, see `print_table`."""
    for part in parts:
        if isinstance(part, str):
            console.print(part, soft_wrap=True)
        else:
            print_table(console, part)


def print_table(console: Console, table: Table) -> None:
    """Print a table as wide as the terminal. It is wider if a word of a cell needs the space."""
    from rich.console import Console
    from rich.measure import Measurement

    wide = console.options.update(max_width=WIDEST)
    for column in table.columns:
        sizes = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
        column.min_width = max(size.minimum for size in sizes)
        column.no_wrap = column.min_width == max(size.maximum for size in sizes)
    width = max(Measurement.get(console, wide, table).minimum, console.width)  # rich takes no larger one than its own
    Console(file=console.file, width=width, quiet=console.quiet, markup=False).print(table, crop=False)
