"""Which weights have a name, and where they are. Knows no torch, so that lists answer at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

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


_KNOWN = (
    Known("nano", "embedded", 256, "small, for any processor; ships with the package"),
    *(_official(version, size) for version in ("2.1", "2.0") for size in ("tiny", "small", "base+", "large")),
    Known(
        "medsam2",
        "wanglab/MedSAM2/MedSAM2_latest.pt",
        512,
        "MedSAM2: SAM 2.1 tiny fine-tuned on CT, MR, PET, video; box prompts",
    ),
    Known("medical-sam2", "jiayuanz3/MedSAM2_pretrain", 1024, "the weights that the authors of Medical SAM 2 released"),
)
KNOWN: Mapping[str, Known] = {known.name: known for known in _KNOWN}


def available() -> tuple[Known, ...]:
    """All weights that have a short name, the embedded default first."""
    return _KNOWN
