"""A consensus in 3D once an object has been tracked: where its slices, its greys and its distances from the prompt disagree.

Tracking goes on beyond the end of a structure and drifts into neighbours that look alike. A region around the object is looked
at once more, as one small volume (`grid`): how likely tracking found each voxel, how like the greys of the prompted slice it
is, how far it lies from inside and from outside along paths that edges make long, and how steadily the slices on the way were
tracked (`evidence`). A gate of a few hundred numbers, learnt beside the network's weights (`gate`), says by how much the logit
of each voxel changes. Slices that were prompted keep their answer, and nothing changes outside of the region.
"""

from medical_sam2.consensus.evidence import FEATURES, described
from medical_sam2.consensus.gate import GATE_FILE, Gate
from medical_sam2.consensus.grid import Grid, Tracked, working_grid
from medical_sam2.consensus.refined import Refined, refined

__all__ = ["FEATURES", "GATE_FILE", "Gate", "Grid", "Refined", "Tracked", "described", "refined", "working_grid"]
