"""A file or folder that a recipe names → the source that reads it."""

from __future__ import annotations

from pathlib import Path

from smol_hf.data.engine.json_source import JsonArraySource, JsonLinesSource
from smol_hf.data.engine.parquet_source import ParquetSource
from smol_hf.data.engine.source import Source


def open_source(path: Path) -> Source:
    """The source of a file, or of a folder of parquet files. Raises FileNotFoundError when there is none."""
    if path.is_dir():
        files = sorted(str(each) for each in path.glob("*.parquet"))
        if not files:
            raise FileNotFoundError(f"the data folder {path} holds no .parquet file")
        return ParquetSource(path.name, files)
    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} does not exist")
    if path.suffix == ".parquet":
        return ParquetSource(path.name, [str(path)])
    return (JsonArraySource if path.suffix == ".json" else JsonLinesSource)(path.name, path)
