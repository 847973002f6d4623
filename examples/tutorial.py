# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A volume, a correction, a set of images
#
# A notebook kept as a script. Run it as it stands (`python examples/tutorial.py`), or make a notebook of it, in this
# folder:
#
# ```sh
# pip install jupytext notebook
# jupytext --to notebook examples/tutorial.py
# ```
#
# Nothing is downloaded: the images are made here, the weights come with the package. What it writes lies in a
# temporary folder that is gone at the end.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from phantom import make  # examples/phantom.py
from segment_images import cells  # examples/segment_images.py

from medical_sam2 import Box, FramePrompt, Point, Segmenter, preview
from medical_sam2.io import load, load_segmentation, save
from medical_sam2.tracking.finishing import FinishingSteps, finish

kept = TemporaryDirectory()
folder = Path(kept.name)

# %% [markdown]
# ## A volume
#
# Six thick slices of a CT of a phantom. `load` reads NIfTI, NRRD, MetaImage and DICOM alike: an array in the order of
# the file, and the affine that leads from its indices to millimetres. In place of this file, give one of yours.

# %%
image, _ = make()
nib.save(image.slicer[:, :, 15:21], folder / "ct.nii.gz")
volume = load(folder / "ct.nii.gz")
print(volume.shape, volume.spacing_mm, volume.orientation)

# %% [markdown]
# ## A click and a box
#
# Places are voxel indices `(i, j, k)`, from 0, as a viewer shows them beside the cursor. The aorta gets a click, the
# spleen a box on one slice. A segmentation at the end of a cell shows itself: slices with outlines, volumes in
# millilitres, and how sure the network was.

# %%
prompts = [Point((100, 94, 3), object=1), Box((130, 72, 3), (154, 111, 3), object=2)]
segmenter = Segmenter.from_pretrained()
found = segmenter.segment_volume(volume, prompts, names={1: "aorta", 2: "spleen"})
found

# %% [markdown]
# The same picture, larger and with the prompts marked, is an image of Pillow that can be shown, saved and cut.

# %%
preview.montage(volume, found, prompts)

# %% [markdown]
# ## Correct it with a negative click
#
# One click was not enough: the vertebra behind the aorta is as bright, and was taken with it. Say so, on the same
# slice, and hand over the labels that are to be corrected. What the click does not touch stays as it was, the spleen
# with it.

# %%
outside = Point((95, 110, 3), object=1, positive=False)
corrected = segmenter.segment_volume(volume, [outside], earlier=found.labels, names=found.names)
corrected

# %% [markdown]
# ## Finishing
#
# Cavities are filled, and the largest part of each object is kept. `changes` has a row for each step, with the voxels
# before and after.

# %%
steps = FinishingSteps(fill_holes=True, largest=True)
finished, changes = finish(corrected, {1: steps, 2: steps}, prompts)
for change in changes:
    print(f"object {change.object}: {change.step}, {change.before} → {change.after} voxels")
finished

# %% [markdown]
# ## Save it
#
# In the grid of the image, bit for bit. NIfTI holds numbers alone; `.seg.nrrd`, the segmentation of 3D Slicer, holds
# names and colours too. What a format does not hold is returned, one line each.

# %%
for name in ("labels.nii.gz", "labels.seg.nrrd"):
    print(name, save(finished, folder / name, like=volume))
again = load_segmentation(folder / "labels.seg.nrrd", like=volume)
assert dict(again.names) == {1: "aorta", 2: "spleen"}
assert np.array_equal(again.labels, finished.labels)
assert np.array_equal(load(folder / "labels.nii.gz").affine, volume.affine)

# %% [markdown]
# ## A set of images from one prompt
#
# Five pictures of a cell; the first one is outlined, and the cell is found in the others. A result comes for each
# image as it is made.

# %%
pictures, outline = cells(5)
results = {one.index: one for one in segmenter.segment_images(pictures, {0: {1: FramePrompt.mask(outline)}})}
masks = [results[i].labels for i in range(len(pictures))]
sure = ["prompted" if results[i].prompted else f"confidence {results[i].confidence[1]:.2f}" for i in range(len(pictures))]
preview.contact_sheet(pictures, masks, sure, columns=5)

# %% [markdown]
# A confidence is no proof: look at the pictures, the least sure ones first. Nothing here is for clinical use.

# %%
kept.cleanup()
