"""Which weights have a name, and where they are. Knows no torch, so that lists answer at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePath

EMBEDDED = Path(str(files("medical_sam2"))) / "weights"
MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Known:
    """Weights that have a short name.

    Args:
        name: what users call them.
        source: "embedded", or what the Hugging Face hub calls them.
        image_size: side of the input that they were trained for, in pixels.
        note: one line about them.
    """

    name: str
    source: str
    image_size: int
    note: str

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


def _official(version: str, size: str) -> Known:
    name = f"sam{version}-{size}"
    family = "2" if version == "2.0" else version
    note = f"SAM {version}, {size}, as published by Meta"
    return Known(name, f"facebook/sam{family}-hiera-{size.replace('base+', 'base-plus')}", 1024, note)


def _medsam2(name: str, file: str, note: str) -> Known:
    """All five were trained by a configuration of 512 pixels (`sam2.1_hiera_t512.yaml` of bowang-lab/MedSAM2)."""
    return Known(name, f"wanglab/MedSAM2/{file}", 512, f"MedSAM2: SAM 2.1 tiny {note}; box prompts")


_KNOWN = (
    Known("nano", "embedded", 256, "small, for any processor; ships with the package"),
    *(_official(version, size) for version in ("2.1", "2.0") for size in ("tiny", "small", "base+", "large")),
    _medsam2("medsam2", "MedSAM2_latest.pt", "fine-tuned on CT, MR, PET, video"),
    _medsam2("medsam2-2411", "MedSAM2_2411.pt", "fine-tuned likewise, as of November 2024"),
    _medsam2("medsam2-ct-lesion", "MedSAM2_CTLesion.pt", "fine-tuned on lesions in CT"),
    _medsam2("medsam2-mri-liver-lesion", "MedSAM2_MRI_LiverLesion.pt", "fine-tuned on lesions of the liver in MR"),
    _medsam2("medsam2-us-heart", "MedSAM2_US_Heart.pt", "fine-tuned on hearts in ultrasound"),
    Known("medical-sam2", "jiayuanz3/MedSAM2_pretrain", 1024, "the weights that the authors of Medical SAM 2 released"),
)
KNOWN: Mapping[str, Known] = {known.name: known for known in _KNOWN}
_PUBLISHED = {
    **{known.source.rpartition("/")[2]: known.image_size for known in _KNOWN if known.source.endswith(".pt")},
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
    known = KNOWN.get(name) or next((each for each in _KNOWN if each.source == name), None)
    return known.image_size if known else _PUBLISHED.get(PurePath(name).name)


def available() -> tuple[Known, ...]:
    """All weights that have a short name, the embedded default first."""
    return _KNOWN
