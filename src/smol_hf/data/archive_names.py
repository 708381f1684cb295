"""Names inside archives: which may become files, and which of them would become the same file."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

MAXIMUM_PART = 255  # bytes, as on most file systems
MAXIMUM_DEPTH = 64
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


class ArchiveError(ValueError):
    """An archive that is not extracted; the message names it, and the member that is the reason."""


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the file that a member is called by.

    Raises:
        ArchiveError: for a name that leads out of the folder, or means something else on another machine.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise ArchiveError("its name holds control characters, or is not UTF-8")
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise ArchiveError("its path is absolute")
    if "\\" in name:
        raise ArchiveError("its name holds a backslash, which separates folders elsewhere")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ArchiveError("its path leads out of the folder")
    if len(parts) > MAXIMUM_DEPTH:
        raise ArchiveError(f"it lies more than {MAXIMUM_DEPTH} folders deep")
    for part in parts:
        if len(part.encode("utf-8")) > MAXIMUM_PART:
            raise ArchiveError(f"its name has more than {MAXIMUM_PART} bytes")
        if part[-1] in " ." or DEVICES.fullmatch(part):
            raise ArchiveError(f"{part!r} is no name of a file on Windows")
    return parts


@dataclass
class TakenNames:
    """What was extracted so far, in the eyes of file systems that know neither case nor ways of writing an accent."""

    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, parts: tuple[str, ...], *, is_folder: bool) -> None:
        """Raises ArchiveError when the name, or one that some file system takes for it, stands for a file already."""
        keys = ["/".join(map(key_of, parts[:depth])) for depth in range(1, len(parts) + 1)]
        folders = keys if is_folder else keys[:-1]
        for key in folders:
            if key in self.files:
                raise ArchiveError(f"it needs a folder where {self.files[key]!r} is a file")
            self.folders.setdefault(key, name)
        if is_folder or not keys:
            return
        if keys[-1] in self.files:
            raise ArchiveError(f"it would be the same file as {self.files[keys[-1]]!r}")
        if keys[-1] in self.folders:
            raise ArchiveError(f"it is a file where {self.folders[keys[-1]]!r} needs a folder")
        self.files[keys[-1]] = name


def key_of(part: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFC", part).casefold())
