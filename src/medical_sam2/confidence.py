"""Where to look again: slices on which the confidence of an object collapses while the object goes on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medical_sam2.volume import SliceConfidence

DROP = 0.6  # of the object's usual confidence


def collapses(rows: Sequence[SliceConfidence]) -> list[SliceConfidence]:
    """The rows with `look_here` set where an object that has an outline is far less sure than usual.

    Usual is the median over the slices of that object and view that have an outline. Beside each stretch of such slices
    only its least sure one is marked, so the list stays short enough to be looked at.
    """
    marked = list(rows)
    for key in dict.fromkeys((row.object, row.view) for row in rows):
        places = [i for i, row in enumerate(rows) if (row.object, row.view) == key and row.area_px > 0 and not row.prompted]
        if len(places) < 3:
            continue
        places.sort(key=lambda i: rows[i].slice)
        sure = np.array([rows[i].confidence for i in places])
        low = sure < DROP * np.median(sure)
        for stretch in np.split(np.arange(len(places)), np.flatnonzero(np.diff(low.astype(int))) + 1):
            if low[stretch[0]]:
                worst = places[int(stretch[sure[stretch].argmin()])]
                marked[worst] = replace(rows[worst], look_here=True)
    return marked
