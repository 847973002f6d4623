"""A batch of four clips, learnt by heart: if the loop, the losses and the memory work, Dice on tracked frames passes 0.95.

    python benchmarks/overfit.py [--weights nano | --scratch] [--steps 600] [--rate 5e-4] [--size 128] [--threads 1]

The clips are synthetic volumes of a seed that no training uses, not augmented anew from step to step: the first four drawn
whose structure is on every frame. The first frame is outlined. Dice is measured apart from the training step, in evaluation
mode. Exit code 1 where 0.95 is not reached.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import torch

from medical_sam2.data.cases import PoolReader
from medical_sam2.data.clips import ClipSampler
from medical_sam2.model.nano import nano
from medical_sam2.model.weights import load_backbone
from medical_sam2.train.config import LossWeights, Phase, Recipe
from medical_sam2.train.loop import TrainingRun
from medical_sam2.train.train_step import Batch, StepPlan, StepResult
from nano_recipe import write_pool

GOAL, CLIPS, EVERY, SEED = 0.95, 4, 20, 9_001
SEEN = 0.005  # of the frame, on every frame: a structure of three pixels scores .75 or 1, whatever was learnt


def batch(folder: Path, size: int, frames: int) -> Batch:
    list(write_pool(folder, volumes=4, sets=0, seed=SEED, size=64))
    sampler = ClipSampler(PoolReader(folder), SEED, sets=0.0, regions=1.0)
    drawn = (sampler.batch(0, [place], frames=frames, objects=1, size=size, smallest=0.02)[0] for place in count())
    clips = list(islice((clip for clip in drawn if clip.truth_OTSS.float().mean((2, 3)).min() >= SEEN), CLIPS))
    return Batch(0, tuple(range(CLIPS)), clips)


def tracked(training: TrainingRun, clips: Batch, plan: StepPlan) -> float:
    training.network.eval()
    with torch.no_grad():
        result: StepResult = training.train_step(clips, 1.0, 1.0, plan=plan)
    return result.dice[2] / result.dice[3]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--scratch", action="store_true", help="begin with untrained weights")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    torch.manual_seed(0)
    network = nano(told.size) if told.scratch else load_backbone(told.weights, image_size=told.size)
    phase = Phase(steps=told.steps, frames=told.frames, clips=CLIPS, objects=1, size=told.size)
    losses = LossWeights(consistency=0.0)
    with tempfile.TemporaryDirectory() as folder:
        clips = batch(Path(folder) / "pool", told.size, told.frames)
        recipe = Recipe(
            str(Path(folder) / "pool"), phases=(phase,), rate=told.rate, warm_up=10, weight_decay=0.0, losses=losses
        )
        recipe = replace(recipe, prompt=(1.0, 0.0, 0.0), corrections=0.0)
        training = TrainingRun(network, recipe, Path(folder) / "run")
        plan, began = StepPlan.draw(recipe, 0, told.frames), time.monotonic()
        for step in range(told.steps + 1):
            if step % EVERY == 0:
                score, minutes = tracked(training, clips, plan), (time.monotonic() - began) / 60
                print(f"step {step}: Dice {score:.3f} on tracked frames, {minutes:.1f} min", flush=True)
                if score > GOAL:
                    return 0
            training.learn(replace(clips, step=step))
    return 1


if __name__ == "__main__":
    sys.exit(main())
