"""The network equals the official SAM 2 predictor, whose outputs under known weights are kept in tests/golden."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.model import sam2
from medical_sam2.model.backbone import Features, FramePrediction, Memory
from medical_sam2.model.checkpoint_format import from_official, network_configuration
from medical_sam2.model.memory_bank import Fifo, PolicyBank
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track, upsample
from medical_sam2.model.weights import load_backbone
from medical_sam2.prompts import Box, Fixed, FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.frames import FrameStack
from medical_sam2.volume import Volume
from tests.golden import official

LOGITS, POINTERS, ENCODER = 5e-4, 1e-4, 1e-4
NOISE = 1e-5  # logits so near to 0 that the rounding of sums decides (one golden pixel is at 8e-7)
GOLDEN = official.outputs()
BOXES = [tuple(box) for box in GOLDEN["boxes_xyxy"]]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Sam2:
    path = tmp_path_factory.mktemp("official") / "checkpoint.pt"
    torch.save({"model": official.state_dict("sam2.1_tiny")}, path)
    return load_backbone(path, image_size=256, memory_dtype=torch.bfloat16).requires_grad_(False)


@pytest.fixture(scope="module")
def features(network: Sam2) -> Sequence[Features]:
    return [network.encode(frame[None]) for frame in official.frames()]


@pytest.mark.parametrize("variant", official.VARIANTS)
def test_each_official_checkpoint_fits_strictly(variant: str) -> None:
    weights = from_official(official.shapes_only(variant))
    with torch.device("meta"):
        network = Sam2(network_configuration(weights, 1024))
    assert {n: w.shape for n, w in network.state_dict().items()} == {n: w.shape for n, w in weights.items()}


def test_each_official_encoder_takes_its_own_place() -> None:
    depths = [from_official(official.shapes_only(variant)) for variant in official.VARIANTS]
    trunks = [network_configuration(weights, 1024).hiera for weights in depths]
    assert [trunk.blocks for trunk in trunks if trunk] == [
        (1, 2, 7, 2),
        (1, 2, 11, 2),
        (2, 3, 16, 3),
        (2, 6, 36, 4),
        (1, 2, 7, 2),
    ]
    assert [trunk.attention.heads for trunk in trunks if trunk] == [1, 1, 2, 2, 1]
    assert [trunk.attention.windows[2] for trunk in trunks if trunk] == [14, 14, 14, 16, 14]


def test_encoder(features: Sequence[Features]) -> None:
    assert largest(features[0].top_BChw, GOLDEN["encoder_top"]) < ENCODER


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("kind", ["box", "mask"])
def test_two_objects(network: Sam2, features: Sequence[Features], kind: str, direction: str) -> None:
    answers = follow(network, features, kind, direction)
    check(answers, f"{kind}_{direction}")


def test_clicks(network: Sam2, features: Sequence[Features]) -> None:
    clicks = FramePrompt.click(100, 120) | FramePrompt.click(30, 200, positive=False)
    bank = PolicyBank(lambda: Fifo(frames=6))
    answers = [p for _, p in track(network, features.__getitem__, range(2, 6), [Fixed({2: clicks})], bank)]
    check(answers, "clicks_from_2")


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_mask_speaks_through_the_single_mask_token(
    network: Sam2, features: Sequence[Features], direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Sam2._run_decoder

    def several(*args: object, **told: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return decoder(*args, **told | {"several": True})

    golden = GOLDEN[f"mask_{direction}_pointer"]
    assert largest(follow(network, features, "mask", direction, visits=1)[0].pointer_BC[:, None], golden) < POINTERS
    monkeypatch.setattr(Sam2, "_run_decoder", several)
    assert largest(follow(network, features, "mask", direction, visits=1)[0].pointer_BC[:, None], golden) > 100 * POINTERS


def without_upsampling(
    self: Sam2, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]
) -> list[Memory]:
    """Remember the mask as it was given, at full resolution."""
    if not all(prompted):
        return REMEMBER(self, frame, prediction, t, prompted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam2, "upsample", lambda *_: torch.from_numpy(np.stack(rectangles())).float() * 20 - 10)
        return REMEMBER(self, frame, prediction, t, prompted)


def softly(self: Sam2, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
    """Remember a prompted frame's mask as any other's."""
    return [
        Memory(t, True, m.map_Chw, m.pointer_C, m.summary_C, m.confidence)
        for m in REMEMBER(self, frame, prediction, t, [False] * len(prompted))
    ]


REMEMBER = Sam2.memorise


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [("mask", without_upsampling), ("box", softly)],
    ids=["a given mask is remembered from its low resolution", "a prompted frame's mask is remembered as a hard one"],
)
def test_what_is_remembered(
    network: Sam2, features: Sequence[Features], kind: str, wrong: Callable[..., list[Memory]], monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = GOLDEN[f"{kind}_forward_logits"][1, :, 0]
    assert largest(follow(network, features, kind, "forward", visits=2)[1].logits_Bhw, golden) < LOGITS
    monkeypatch.setattr(Sam2, "memorise", wrong)
    assert largest(follow(network, features, kind, "forward", visits=2)[1].logits_Bhw, golden) > 4 * LOGITS


def test_memories_are_rounded_where_asked(network: Sam2, features: Sequence[Features], monkeypatch: pytest.MonkeyPatch) -> None:
    golden = GOLDEN["box_forward_logits"][1, :, 0]
    rounded = largest(follow(network, features, "box", "forward", visits=2)[1].logits_Bhw, golden)
    monkeypatch.setattr(network, "memory_dtype", None)
    assert largest(follow(network, features, "box", "forward", visits=2)[1].logits_Bhw, golden) > 2 * rounded


def test_an_unstable_single_mask_gives_way_to_the_best_of_three(
    network: Sam2, features: Sequence[Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = GOLDEN["box_forward_logits"][0, :, 0]
    assert largest(follow(network, features, "box", "forward", visits=1)[0].logits_Bhw, golden) < LOGITS
    monkeypatch.setattr(network.mask_decoder, "least_stability", 0.0)
    assert largest(follow(network, features, "box", "forward", visits=1)[0].logits_Bhw, golden) > 1


@pytest.mark.parametrize("forward", [True, False])
def test_a_short_stack_of_slices_is_tracked_as_a_film_of_that_length(
    network: Sam2, features: Sequence[Features], forward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `bank="fifo"`, from the command line's entrance: six slices, whose pointers tell time in fifths."""
    volume = Volume(np.zeros((256, 256, 6), np.float32), np.diag([-1.0, -1, 1, 1]))
    monkeypatch.setattr(FrameStack, "input", lambda stack, t: torch.full((3, 1, 1), float(t)))
    segmenter = Segmenter(network, device="cpu", precision="fp32")
    monkeypatch.setattr(segmenter, "encode", lambda frame, store=None: features[int(frame[0, 0, 0])])
    first, told = (0, "forward") if forward else (5, "reverse")
    prompts = [Box((x, y, first), (x2, y2, first), label) for label, (x, y, x2, y2) in enumerate(edges(BOXES), 1)]
    found = segmenter.segment_volume(volume, prompts, bank="fifo", views="one", zoom=False, window="0,1", probability=True)
    golden = torch.from_numpy(GOLDEN[f"box_{told}_logits"][:, :, 0])
    golden = golden if forward else golden.flip(0)
    for label in (1, 2):
        expected = upsample(golden[:, label - 1], 256).sigmoid().numpy()
        assert np.abs(found.probability[label].transpose(2, 1, 0) - expected).max() < LOGITS / 4


def edges(boxes: Sequence[tuple[float, ...]]) -> list[list[float]]:
    """Boxes whose outer pixels are included, for boxes that run from edge to edge of pixels."""
    return [[x + 0.5, y + 0.5, x2 - 0.5, y2 - 0.5] for x, y, x2, y2 in boxes]


def follow(network: Sam2, features: Sequence[Features], kind: str, direction: str, *, visits: int = 6) -> list[FramePrediction]:
    """Both objects through the frames, prompted on the first that is visited."""
    order = (range(6) if direction == "forward" else range(5, -1, -1))[:visits]
    prompts = {"box": [FramePrompt.box(*box) for box in BOXES], "mask": [FramePrompt.mask(mask) for mask in rectangles()]}[kind]
    prompters = [Fixed({order[0]: prompt}) for prompt in prompts]
    bank = PolicyBank(lambda: Fifo(frames=6))
    return [prediction for _, prediction in track(network, features.__getitem__, order, prompters, bank)]


def check(answers: list[FramePrediction], name: str) -> None:
    golden = GOLDEN[f"{name}_logits"][:, :, 0]
    ours = torch.stack([answer.logits_Bhw for answer in answers]).numpy()
    assert np.abs(ours - golden).max() < LOGITS
    assert ((ours > 0) == (golden > 0))[np.abs(golden) > NOISE].all()
    if f"{name}_pointer" in GOLDEN:
        assert largest(answers[0].pointer_BC[:, None], GOLDEN[f"{name}_pointer"]) < POINTERS


def rectangles() -> list[NDArray[np.bool_]]:
    y, x = np.mgrid[:256, :256]
    return [(x >= left) & (x < right) & (y >= top) & (y < bottom) for left, top, right, bottom in BOXES]


def largest(ours: Tensor, golden: NDArray[np.float32]) -> float:
    return float(np.abs(ours.numpy() - golden).max())
