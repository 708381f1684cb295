"""`accelerate launch -m smol_hf.dpo --config recipes/text/dpo_135m.yaml [--key value …]`: train on preferences.

`<output_dir>/checkpoint/` loads with transformers, without this package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from smol_hf.train import run_command
from smol_hf.training.recipe.recipes import PREFERENCE_CLASSES


def main(command_line: Sequence[str] | None = None, usage: str = "") -> int:
    return run_command("dpo", PREFERENCE_CLASSES, command_line, usage=usage)


if __name__ == "__main__":
    sys.exit(main())
