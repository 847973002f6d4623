"""Weights on the Hugging Face hub: from its cache if they are there, else fetched."""

import re
from pathlib import Path

from medical_sam2.errors import AmbiguousError, MedicalSam2Error, WeightsError
from medical_sam2.model.catalogue import CONFIG_FILE, MODEL_FILE
from medical_sam2.model.tensors import PICKLED

_ID = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:/([\w.-]+(?:/[\w.-]+)*))?")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of the hub's: owner/repository, or owner/repository/file."""
    match = _ID.fullmatch(name)
    return match is not None and not match[1].endswith((*PICKLED, ".safetensors"))


def fetched(name: str) -> Path:
    """The file of weights that `name` stands for; its configuration lies beside it where the repository has one.

    Raises:
        WeightsError: it does not exist, is not for everybody, or the hub cannot be reached.
        AmbiguousError: the repository holds several files of weights.
    """
    match = _ID.fullmatch(name)
    if match is None:
        raise WeightsError("is no name on the Hugging Face hub", "give owner/repository", subject=name)
    try:
        return _file(match[1], match[2] or MODEL_FILE, only=match[2] is None)
    except MedicalSam2Error:
        raise
    except Exception as error:  # the hub's client raises what the HTTP library under it raises, and that changes
        problem = f"cannot be fetched from the Hugging Face hub ({type(error).__name__})"
        remedy = "check the name and the connection, or fetch the file elsewhere and give its path"
        raise WeightsError(problem, remedy, subject=name) from error


def _file(repository: str, file: str, *, only: bool) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    if isinstance(here := try_to_load_from_cache(repository, file), str):
        return Path(here)
    try:
        get_hf_file_metadata(hf_hub_url(repository, file))  # asks once, where a download would retry for half a minute
    except EntryNotFoundError:
        if not only:
            raise
        return _file(repository, _only_file(repository), only=False)
    if file == MODEL_FILE:
        hf_hub_download(repository, CONFIG_FILE)
    return Path(hf_hub_download(repository, file))


def _only_file(repository: str) -> str:
    from huggingface_hub import list_repo_files

    found = [file for file in list_repo_files(repository) if file.endswith((*PICKLED, ".safetensors"))]
    if len(found) > 1:
        choices = [f"{repository}/{file}" for file in found]
        raise AmbiguousError("the repository holds several files of weights", "choose one", subject=repository, choices=choices)
    if not found:
        raise WeightsError("the repository holds no weights", "give another one", subject=repository)
    return found[0]
