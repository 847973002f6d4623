"""Slices per second on this processor: one object, a box on the first of some slices, fp32, beside transformers' own session.

Both run the same weights over the same slices in turn, slice by slice, so that whatever else the machine does hits both.
Weights are random: the time does not depend on them.

    python benchmarks/speed.py --threads 1 > benchmarks/results/speed.md
"""

import platform
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from medical_sam2.model.backbone import Features
from medical_sam2.model.memory import Fifo, PolicyBank, SelfSorting
from medical_sam2.model.nano import nano
from medical_sam2.model.pyramid import reset
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track
from medical_sam2.prompts import Fixed, FramePrompt

SETTLE = 8  # slices until SAM 2's memory is full
BOX = (0.3, 0.3, 0.6, 0.6)


def ours(network: Sam2, frames: Tensor, policy: Callable[[], Fifo | SelfSorting]) -> Iterator[Tensor]:
    """Logits, slice by slice."""
    box = FramePrompt.box(*(side * network.image_size for side in BOX))

    def seen(t: int) -> Features:
        return network.encode(frames[t : t + 1])

    with torch.inference_mode():
        for _, prediction in track(network, seen, range(len(frames)), [Fixed({0: box})], PolicyBank(policy)):
            yield prediction.logits_Bhw


def theirs(model: Sam2VideoModel, frames: Tensor) -> Iterator[Tensor]:
    """The same from transformers' session."""
    size = model.config.image_size
    session = Sam2VideoInferenceSession(video=frames, video_height=size, video_width=size, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    corners = torch.tensor(BOX).view(1, 1, 2, 2) * size
    session.add_point_inputs(index, 0, {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]])})
    session.obj_with_new_inputs = [1]
    for t in range(len(frames)):
        yield model(session, frame_idx=t).pred_masks


def tiny(size: int) -> tuple[Sam2, Sam2VideoModel]:
    """SAM 2.1 tiny with random weights, here and there."""
    config = Sam2VideoConfig(
        image_size=size,
        prompt_encoder_config={"image_size": size},
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_feature_sizes": [[size // stride] * 2 for stride in (4, 8, 16)],
            "backbone_config": {"model_type": "sam2_hiera_det_model", "image_size": [size, size]},
        },
        memory_attention_rope_feat_sizes=[size // 16, size // 16],
    )
    torch.manual_seed(0)
    network = Sam2(config).eval()
    reset(network)
    model = Sam2VideoModel(config).eval()
    model.load_state_dict(network.state_dict(), strict=False)
    return network, model


def interleaved(runs: dict[str, Iterator[Tensor]], count: int) -> dict[str, tuple[list[float], list[float]]]:
    """Wall and processor seconds of each slice, one slice of each run in turn."""
    took: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for _ in range(count):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            next(run)
            took[name][0].append(time.perf_counter() - wall)
            took[name][1].append(time.process_time() - processor)
    return took


def row(what: str, wall: list[float], processor: list[float]) -> str:
    """One line of the table: medians once the memory is full."""
    seconds, busy = statistics.median(wall[SETTLE:]), statistics.median(processor[SETTLE:])
    return f"| {what} | {1 / seconds:.2f} | {1000 * seconds:.0f} | {1000 * busy:.0f} |"


def machine() -> str:
    """Processor and libraries."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, transformers {version('transformers')}"


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=28)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    say = sys.stdout.write
    say(f"# Slices per second\n\n{machine()}.\n\nOne object, box on the first slice, fp32, random weights; medians of the ")
    say(f"slices after the first {SETTLE} of {options.slices}; the rows of one size ran slice by slice in turn. The machine ")
    say("may do other work meanwhile: then compare milliseconds of processor.\n\n")
    say("| network | slices/s | ms a slice | ms of processor |\n|---|---|---|---|\n")
    for size in options.sizes:
        frames = torch.randn(options.slices, 3, size, size)
        network, model = tiny(size)
        runs = {
            f"SAM 2.1 tiny {size} px, this package, fifo": ours(network, frames, lambda: Fifo(frames=options.slices)),
            f"SAM 2.1 tiny {size} px, transformers' session": theirs(model, frames),
            f"SAM 2.1 tiny {size} px, this package, self-sorting": ours(network, frames, lambda: SelfSorting(threshold=0.0)),
        }
        if size == 256:
            runs["nano 256 px, self-sorting"] = ours(nano(size).eval(), frames, lambda: SelfSorting(threshold=0.0))
        for name, took in interleaved(runs, options.slices).items():
            say(row(name, *took) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
