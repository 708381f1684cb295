"""Fingerprints of a run's data: of all of it, and of each source."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from smol_hf.data.mixture.mixture import FIRST_RECORDS, Data, located
from smol_hf.data.sources.files import is_remote
from smol_hf.data.sources.fingerprints import are_read_whole, digests_of_files
from smol_hf.data.sources.hub_dataset import hub_id
from smol_hf.data.stream.size_cache import digest_images
from smol_hf.data.stream.survey import survey_first
from smol_hf.training.data import open_data
from smol_hf.training.document_data import DocumentData
from smol_hf.training.recipe.data_arguments import DataArguments


def fingerprint(data: Data, read_images: bool) -> str:
    """Return the SHA-256 of the measured records and of the image files that they name.

    Images of at most 256 MiB together are read completely, and all of them with `read_images`; otherwise by samples,
    see `sampled_digest`. Of data that was not measured the first 1,000 records of each source count.
    """
    digest = hashlib.sha256("".join(source.fingerprint for source in data.sources).encode())
    named = [named for images in data.found.images.values() for named in images.items()]
    digests = {path: each for path, each in named if each and not os.path.isdir(path)}  # the names of frames are below
    paths = [Path(path) for path in digests]
    if data.found.read_whole != (whole := read_images or are_read_whole(paths)):  # after a source was left out
        digests = dict(zip(digests, digests_of_files(paths, whole=whole)))
    for path, content in digests.items():
        digest.update(named_content(path, content))
    return digest.hexdigest()


def source_fingerprints(data: Data) -> dict[str, str]:
    """Return the SHA-256 of each local source by its name, with the image and video files that its records name."""
    prints = {}
    for index, source in enumerate(data.sources):
        if source.remote or source.revision is not None:  # a Hub dataset has its commit
            continue
        digest = hashlib.sha256(source.fingerprint.encode())
        for path, content in sorted(data.found.images.get(index, {}).items()):
            digest.update(
                f"{Path(path).name}:{content}".encode("utf-8", "surrogateescape")
            )  # a name may have any bytes
        prints[source.name] = digest.hexdigest()
    return prints


def document_fingerprints(documents: DocumentData) -> dict[str, str]:
    """Return the fingerprints of local documents by the key of the recipe that names them."""
    both = {"documents": documents.documents, "validation_documents": documents.validation}
    local = {key: each for key, each in both.items() if each is not None and not each.remote and not each.revision}
    return {key: each.fingerprint for key, each in local.items()}


def fingerprints_now(arguments: DataArguments, seed: int) -> dict[str, str]:
    """Return the fingerprints of a recipe's local sources, read without a model. Missing sources are left out.

    Raises SampleError, ValueError: for data that cannot be read.
    """
    try:
        if arguments.documents is not None:
            names = (arguments.documents, arguments.validation_documents)
            remote = any(name is not None and not is_local(name) for name in names)
            return {} if remote else document_fingerprints(DocumentData.open(arguments))
        entries = arguments.mixture or [{"data": arguments.data}]
        local = [each for each in entries if is_local(located(each["data"], arguments.data_root))]
        if not local:
            return {}
        if arguments.mixture is not None:
            arguments = replace(arguments, mixture=local, on_failed_source="reweight")
        data = open_data(arguments, seed)
    except FileNotFoundError:
        return {}
    whole = data.surveyed and len(local) == len(entries)
    data.found = survey_first(data.samples(None if whole else FIRST_RECORDS, local_only=True), data.readers)
    digest_images(data.found, arguments.verify_images)
    return source_fingerprints(data)


def is_local(name: str) -> bool:
    return hub_id(name) is None and not is_remote(name)


def named_content(path: str, content: str) -> bytes:
    return f"{Path(path).name}:{content}".encode("utf-8", "surrogateescape")  # a name may have any bytes
