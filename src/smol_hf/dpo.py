"""`accelerate launch -m smol_hf.dpo --config recipes/text/dpo_135m.yaml [--key value …]`: learn from preferences, then
publish the result.

The finished model is in `<output_dir>/checkpoint/`, a folder that anyone loads with transformers alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from smol_hf.train import run_command
from smol_hf.training.preference import ARGUMENT_CLASSES


def main(command_line: Sequence[str] | None = None) -> int:
    return run_command("dpo", ARGUMENT_CLASSES, command_line)


if __name__ == "__main__":
    sys.exit(main())
