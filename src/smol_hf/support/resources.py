"""Files that ship with the package but are not Python: `hub_templates/` and `recipes/`.

In a source checkout they are at the root of the repository, in a wheel inside the package folder.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

RESOURCE_FOLDERS = ("hub_templates", "recipes")

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_path(*parts: str) -> Path:
    """Return the path of a shipped file or folder, such as `resource_path("recipes", "quickstart", "demo.yaml")`.

    `parts` begin with one of `RESOURCE_FOLDERS`. Each may have several levels. Raises FileNotFoundError for a missing
    file and for a path outside these folders.
    """
    relative = PurePosixPath(*parts)
    if not relative.parts or relative.parts[0] not in RESOURCE_FOLDERS or ".." in relative.parts:
        raise FileNotFoundError(f"no resource '{relative}': it must be inside {' or '.join(RESOURCE_FOLDERS)}")
    in_checkout = _PACKAGE.parent.name == "src"
    candidates = [root / relative for root in ([_PACKAGE, _PACKAGE.parents[1]] if in_checkout else [_PACKAGE])]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"no resource '{relative}': looked for {' and '.join(map(str, candidates))}")
