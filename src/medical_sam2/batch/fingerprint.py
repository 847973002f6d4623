"""What results depend on, as hashes: a later run sees by them whether what lies there was made likewise."""

import json
from collections.abc import Sequence
from hashlib import file_digest, sha256
from pathlib import Path

from medical_sam2.batch import BatchCase
from medical_sam2.io import registry

WITHOUT_EFFECT = ("weights", "threads", "device", "features")
"""Settings that results do not depend on, so that a run goes on elsewhere; of weights the content counts, not the name."""


def hash_weights(file: Path, beside: Sequence[str]) -> list[str]:
    """Hash of a file of weights, and of those of the small networks beside it that are there."""
    files = (file, *(file.with_name(each) for each in beside))
    return [hash_files([path]) for path in files if path.is_file()]


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in their order, and of those in folders; what is neither is passed over."""
    whole = sha256()
    for file in (each for path in paths for each in (sorted(path.iterdir()) if path.is_dir() else [path])):
        if not file.is_file():  # a device never ends
            continue
        with file.open("rb") as stream:
            whole.update(file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def hash_content(content: object) -> str:
    """SHA-256 of what can be written as JSON."""
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def contents(case: BatchCase) -> list[Path]:
    """The files of an image, further channels and the voxels beside a header among them."""
    if case.image.is_dir():
        return sorted(path for path in case.image.iterdir() if path.is_file())
    halves = [case.image.with_suffix(suffix) for suffix in sorted(registry.data_suffixes())]
    beside = [half for half in halves if case.image.suffix.lower() in registry.header_suffixes() and half.is_file()]
    return [*(case.channels or (case.image,)), *beside]
