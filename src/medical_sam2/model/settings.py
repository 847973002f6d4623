"""What a network is beside its weights: `config.json`, ours and that of `transformers`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from medical_sam2.errors import WeightsError
from medical_sam2.model.sam2 import Pixels
from medical_sam2.model.sizes import HEADS, Hiera

FORMAT, VERSION = "medical-sam2", 1
SMALLEST, LARGEST, STEP = 64, 4096, 32


@dataclass(frozen=True)
class Settings:
    """All about a network that the shapes of its weights do not tell.

    Args:
        encoder: kind of the image encoder: Hiera, or the convolutional pyramid of `nano`.
        image_size: side of its square input in pixels; None where nothing tells.
        pixels: normalisation that the weights expect.
        mask_heads: attention heads of the mask decoder.
        hiera: heads, windows and global blocks of a Hiera; looked up among the official ones where None.
    """

    encoder: Literal["hiera", "pyramid"] = "hiera"
    image_size: int | None = None
    pixels: Pixels = field(default_factory=Pixels)
    mask_heads: int = HEADS
    hiera: Hiera | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None:
            check_image_size(self.image_size)

    def as_json(self) -> dict[str, Any]:
        """The content of our `config.json`."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def check_image_size(size: Any) -> int:
    """The size, if a network can take it.

    Raises:
        WeightsError: it is too small, too large or no multiple of 32.
    """
    if not isinstance(size, int) or size % STEP or not SMALLEST <= size <= LARGEST:
        raise WeightsError(
            f"no network takes images of {size} pixels", f"give a multiple of {STEP} from {SMALLEST} to {LARGEST}"
        )
    return size


def parse(content: Mapping[str, Any]) -> Settings:
    """The settings in a `config.json` of ours or of transformers' `Sam2VideoModel`.

    Raises:
        WeightsError: it is neither, or holds values that no network has.
    """
    try:
        if content.get("format") == FORMAT:
            return _ours(content)
        if content.get("model_type") == "sam2_video":
            return _transformers(content)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError("the configuration holds values that no network has", "restore the original one") from error
    raise WeightsError("unknown configuration: neither of this package nor of a SAM 2 video model", "give weights of SAM 2")


def _ours(content: Mapping[str, Any]) -> Settings:
    values: dict[str, Any] = {name: value for name, value in content.items() if name not in {"format", "version"}}
    if content.get("version") != VERSION or values["encoder"] not in {"hiera", "pyramid"}:
        raise WeightsError("the configuration is of a later version", "update this package")
    pixels = Pixels(_three(values["pixels"]["mean"]), _three(values["pixels"]["std"]))
    if min(pixels.std) <= 0:
        raise ValueError(pixels)
    values["hiera"] = _hiera(**values["hiera"]) if values["hiera"] is not None else None
    values |= {"pixels": pixels, "mask_heads": int(values["mask_heads"])}
    return Settings(**values)


def _three(numbers: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(number) for number in numbers)
    return red, green, blue


def _transformers(content: Mapping[str, Any]) -> Settings:
    """Only what cannot be read off the weights; what is left out has transformers' default, that of SAM 2.1 tiny."""
    backbone = content.get("vision_config", {}).get("backbone_config", {})
    names = {
        "heads": "num_attention_heads",
        "windows": "window_size_per_stage",
        "everywhere": "global_attention_blocks",
    }
    told = {ours: backbone[theirs] for ours, theirs in names.items() if backbone.get(theirs) is not None}
    size = content.get("image_size", 1024)
    return Settings(image_size=size if isinstance(size, int) else max(size), hiera=_hiera(**told) if len(told) == 3 else None)


def _hiera(heads: int, windows: list[int], everywhere: list[int]) -> Hiera:
    return Hiera(int(heads), tuple(int(x) for x in windows), tuple(int(x) for x in everywhere))
