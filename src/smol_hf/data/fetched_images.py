"""Images that records name by their address: fetched once, kept in a folder, and read from there ever after.

What failed is remembered as well, with its reason. So planning, decoding, other processes and a resumed run all see
the same bytes, or the same fault.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock
from huggingface_hub import cached_assets_path

from smol_hf.data.addresses import AllowedHosts, FetchError, parse_address
from smol_hf.data.conversation import Conversation, ImagePart, Part, SampleError
from smol_hf.data.fetching import Clock, ask, chunks
from smol_hf.data.images import MAXIMUM_BYTES

MAXIMUM_SECONDS = 2.0
LONGEST_SECONDS = 3600.0


def default_folder() -> Path:
    """Below `HF_HOME`, where huggingface_hub lets libraries keep their files."""
    return cached_assets_path("smol_hf", "fetched_images")


@dataclass(frozen=True)
class ImageFetcher:
    """Fetches images from allowed hosts. Without any host it is off, and refuses.

    Args:
        hosts: see `AllowedHosts`.
        timeout: seconds for one image, from the name's resolution to the last byte, redirects included.
        max_bytes: of one image.
        folder: where images and failures are kept. Processes on several machines must share it.

    Raises:
        ValueError: for a host that is none, and for limits that are not positive.
    """

    hosts: AllowedHosts = field(default_factory=AllowedHosts)
    timeout: float = MAXIMUM_SECONDS
    max_bytes: int = MAXIMUM_BYTES
    folder: Path | None = None

    def __post_init__(self):
        if not 0 < self.timeout <= LONGEST_SECONDS:
            seconds = f"more than 0 seconds, at most {LONGEST_SECONDS:,.0f}"
            raise ValueError(f"fetch_timeout is {self.timeout}: it must be {seconds}")
        if not 0 < self.max_bytes <= MAXIMUM_BYTES:
            raise ValueError(f"max_image_bytes is {self.max_bytes}: it must be from 1 to {MAXIMUM_BYTES:,}")

    @property
    def is_on(self) -> bool:
        return bool(self.hosts.entries)

    def for_hosts(self, entries: list[str] | None) -> ImageFetcher:
        """The same for other hosts; None keeps them. Raises ValueError."""
        if entries is None:
            return self
        if not isinstance(entries, (list, tuple)):
            raise ValueError(f"fetch_images is {entries!r}: it must be a list of hosts")
        try:
            return replace(self, hosts=AllowedHosts(tuple(entries)))
        except ValueError as error:
            raise ValueError(f"fetch_images: {error}") from error

    def bring(self, conversation: Conversation) -> Conversation:
        """The conversation with a file in place of each address.

        Raises:
            SampleError: for an address that may not be asked, or was asked in vain.
        """
        if all(image.url is None for image in conversation.images):
            return conversation
        messages = [
            replace(message, parts=tuple(self.brought(part, conversation.sample_id) for part in message.parts))
            for message in conversation.messages
        ]
        return replace(conversation, messages=tuple(messages))

    def brought(self, part: Part, where: str) -> Part:
        if not isinstance(part, ImagePart) or part.url is None:
            return part
        if not self.is_on:
            raise SampleError(
                where,
                f"the image is the address {part.url!r}, and none is fetched: allow its host under fetch_images, or "
                "download it and give the path of the file",
            )
        try:
            return ImagePart(path=str(self.path_of(part.url)), fetched_from=part.url)
        except FetchError as error:
            raise SampleError(where, f"{part.url!r} is not fetched: {error}") from error

    def path_of(self, url: str) -> Path:
        """The file that holds what the address gave. Raises FetchError; what was tried in vain stays so."""
        self.hosts.check(parse_address(url))  # what this recipe does not allow is no failure of the address
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        folder = (self.folder or default_folder()) / name[:2]
        path, failed = folder / name, folder / f"{name}.failed"
        if path.is_file():
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # of several processes one fetches, and the others see what it saw
            if not path.is_file():
                if (reason := self.remembered(failed)) is not None:
                    raise FetchError(f"{reason} (remembered: delete {failed} to try again)")
                self.fetch(url, path, failed)
        return path

    def remembered(self, failed: Path) -> str | None:
        """Why an earlier attempt under the same limits failed."""
        if not failed.is_file():
            return None
        marker = json.loads(failed.read_text(encoding="utf-8"))
        return marker["reason"] if marker["limits"] == self.limits() else None

    def limits(self) -> list:
        return [sorted(self.hosts.entries), self.timeout, self.max_bytes]

    def fetch(self, url: str, path: Path, failed: Path) -> None:
        partial = path.with_name(f"{path.name}.partial")
        try:
            with partial.open("wb") as file, ask(url, self.hosts, Clock(total=self.timeout)) as answer:
                for piece in chunks(answer, self.max_bytes):
                    file.write(piece)
        except FetchError as error:
            marker = {"url": url, "reason": str(error), "limits": self.limits()}
            partial.write_text(json.dumps(marker) + "\n", encoding="utf-8")
            os.replace(partial, failed)
            raise
        os.replace(partial, path)
        failed.unlink(missing_ok=True)
