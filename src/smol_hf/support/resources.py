"""Files that ship with the package but are not Python: `hub_templates/` and `recipes/`.

In a source checkout they stand at the root of the repository; a wheel carries them inside the package folder.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

RESOURCE_FOLDERS = ("hub_templates", "recipes")

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_path(*parts: str) -> Path:
    """The path of a shipped file or folder, e.g. `resource_path("recipes", "quickstart", "demo.yaml")`.

    `parts` begin with one of `RESOURCE_FOLDERS` and may hold several levels each. Raises FileNotFoundError when
    there is no such file, when `parts` begin elsewhere, or when they lead out of the resource folder.
    """
    relative = PurePosixPath(*parts)
    if not relative.parts or relative.parts[0] not in RESOURCE_FOLDERS or ".." in relative.parts:
        raise FileNotFoundError(f"no resource '{relative}': it must lie inside {' or '.join(RESOURCE_FOLDERS)}")
    candidates = [root / relative for root in _roots()]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"no resource '{relative}': looked for {' and '.join(map(str, candidates))}")


def _roots() -> list[Path]:
    """Where resource folders may stand: the installed package, then the checkout it is run from."""
    in_checkout = _PACKAGE.parent.name == "src"
    return [_PACKAGE, _PACKAGE.parents[1]] if in_checkout else [_PACKAGE]
