"""Which weights have a name, where they are, and how they come from the Hugging Face hub: from its cache if they are there,
else fetched. Knows no torch, so that lists answer at once; the hub's client, slow to load, is loaded when it is needed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePath

from medical_sam2.errors import AmbiguousError, MedicalSam2Error, WeightsError

EMBEDDED = Path(str(files("medical_sam2"))) / "weights"
MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_HUB_ID = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:/([\w.-]+(?:/[\w.-]+)*))?")


@dataclass(frozen=True)
class NamedWeights:
    """Weights that have a short name."""

    name: str  # what users call them
    source: str  # "embedded", or what the Hugging Face hub calls them
    image_size: int  # side of the input that they were trained for, in pixels
    note: str  # one line about them

    @property
    def folder(self) -> Path:
        """Where they are if they ship with the package."""
        return EMBEDDED / self.name

    @property
    def here(self) -> bool:
        """Whether they can be loaded without a network."""
        if self.source == "embedded":
            return (self.folder / MODEL_FILE).is_file()
        from huggingface_hub import try_to_load_from_cache

        owner, repository, *file = self.source.split("/", 2)
        return isinstance(try_to_load_from_cache(f"{owner}/{repository}", *file or [MODEL_FILE]), str)


def _official(version: str, size: str) -> NamedWeights:
    name = f"sam{version}-{size}"
    family = "2" if version == "2.0" else version
    note = f"SAM {version}, {size}, as published by Meta"
    return NamedWeights(name, f"facebook/sam{family}-hiera-{size.replace('base+', 'base-plus')}", 1024, note)


def _medsam2(name: str, file: str, note: str) -> NamedWeights:
    """All five were trained by a configuration of 512 pixels (`sam2.1_hiera_t512.yaml` of bowang-lab/MedSAM2)."""
    return NamedWeights(name, f"wanglab/MedSAM2/{file}", 512, f"MedSAM2: SAM 2.1 tiny {note}; box prompts")


_NAMED = (
    NamedWeights("nano", "embedded", 256, "small, for any processor; ships with the package"),
    *(_official(version, size) for version in ("2.1", "2.0") for size in ("tiny", "small", "base+", "large")),
    _medsam2("medsam2", "MedSAM2_latest.pt", "fine-tuned on CT, MR, PET, video"),
    _medsam2("medsam2-2411", "MedSAM2_2411.pt", "fine-tuned likewise, as of November 2024"),
    _medsam2("medsam2-ct-lesion", "MedSAM2_CTLesion.pt", "fine-tuned on lesions in CT"),
    _medsam2("medsam2-mri-liver-lesion", "MedSAM2_MRI_LiverLesion.pt", "fine-tuned on lesions of the liver in MR"),
    _medsam2("medsam2-us-heart", "MedSAM2_US_Heart.pt", "fine-tuned on hearts in ultrasound"),
    NamedWeights("medical-sam2", "jiayuanz3/MedSAM2_pretrain", 1024, "the weights that the authors of Medical SAM 2 released"),
)
NAMED_WEIGHTS: Mapping[str, NamedWeights] = {named.name: named for named in _NAMED}
_PUBLISHED = {
    **{named.source.rpartition("/")[2]: named.image_size for named in _NAMED if named.source.endswith(".pt")},
    **{f"sam{v}_hiera_{s}.pt": 1024 for v in ("2", "2.1") for s in ("tiny", "small", "base_plus", "large")},
    "MedSAM2_pretrain.pth": 1024,
}
"""File → side of the input that it was trained for, of weights that were published without a configuration."""


def trained_size(name: str) -> int | None:
    """Side in pixels of the input that weights were trained for, by their name here, on the hub, or as a file.

    None where the name does not tell.

    >>> trained_size("medsam2"), trained_size("wanglab/MedSAM2/MedSAM2_CTLesion.pt"), trained_size("mine/latest.pt")
    (512, 512, None)
    """
    named = NAMED_WEIGHTS.get(name) or next((each for each in _NAMED if each.source == name), None)
    return named.image_size if named else _PUBLISHED.get(PurePath(name).name)


def available() -> tuple[NamedWeights, ...]:
    """All weights that have a short name, the embedded default first."""
    return _NAMED


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of the hub's: owner/repository, or owner/repository/file."""
    match = _HUB_ID.fullmatch(name)
    return match is not None and not match[1].endswith((*PICKLED, ".safetensors"))


def fetch(name: str) -> Path:
    """The file of weights that `name` stands for; its configuration lies beside it where the repository has one.

    Raises:
        WeightsError: it does not exist, is not for everybody, or the hub cannot be reached.
        AmbiguousError: the repository holds several files of weights.
    """
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise WeightsError("is no name on the Hugging Face hub", "give owner/repository", subject=name)
    try:
        return _fetch_file(match[1], match[2] or MODEL_FILE, only=match[2] is None)
    except MedicalSam2Error:
        raise
    except Exception as error:  # the hub's client raises what the HTTP library under it raises, and that changes
        problem = f"cannot be fetched from the Hugging Face hub ({type(error).__name__})"
        remedy = "check the name and the connection, or fetch the file elsewhere and give its path"
        raise WeightsError(problem, remedy, subject=name) from error


def _fetch_file(repository: str, file: str, *, only: bool) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    if isinstance(here := try_to_load_from_cache(repository, file), str):
        return Path(here)
    try:
        get_hf_file_metadata(hf_hub_url(repository, file))  # asks once, where a download would retry for half a minute
    except EntryNotFoundError:
        if not only:
            raise
        return _fetch_file(repository, _only_file(repository), only=False)
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
