"""SegRap 2023, task 1: organs at risk of the head and neck in CT without and with contrast."""

from dataclasses import replace

from medical_sam2.data.catalog import segrap
from medical_sam2.data.catalog.entry import Layout

ORGANS = {
    "Brain": (
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
    ),
    "BrainStem": (2,),
    "Chiasm": (3,),
    "TemporalLobe_L": (
        4,
        6,
    ),
    "TemporalLobe_R": (
        5,
        7,
    ),
    "Hippocampus_L": (
        6,
        8,
    ),
    "Hippocampus_R": (
        7,
        9,
    ),
    "Eye_L": (
        10,
        12,
    ),
    "Eye_R": (
        11,
        13,
    ),
    "Lens_L": (12,),
    "Lens_R": (13,),
    "OpticNerve_L": (14,),
    "OpticNerve_R": (15,),
    "MiddleEar_L": (
        16,
        18,
        20,
        24,
        28,
        30,
    ),
    "MiddleEar_R": (
        17,
        19,
        21,
        25,
        29,
        31,
    ),
    "IAC_L": (18,),
    "IAC_R": (19,),
    "TympanicCavity_L": (
        20,
        22,
    ),
    "TympanicCavity_R": (
        21,
        23,
    ),
    "VestibulSemi_L": (
        24,
        26,
    ),
    "VestibulSemi_R": (
        25,
        27,
    ),
    "Cochlea_L": (28,),
    "Cochlea_R": (29,),
    "ETbone_L": (
        30,
        32,
    ),
    "ETbone_R": (
        31,
        33,
    ),
    "Pituitary": (34,),
    "OralCavity": (35,),
    "Mandible_L": (36,),
    "Mandible_R": (37,),
    "Submandibular_L": (38,),
    "Submandibular_R": (39,),
    "Parotid_L": (40,),
    "Parotid_R": (41,),
    "Mastoid_L": (42,),
    "Mastoid_R": (43,),
    "TMjoint_L": (44,),
    "TMjoint_R": (45,),
    "SpinalCord": (46,),
    "Esophagus": (47,),
    "Larynx": (
        48,
        49,
        50,
        51,
    ),
    "Larynx_Glottic": (49,),
    "Larynx_Supraglot": (50,),
    "PharynxConst": (
        51,
        52,
    ),
    "Thyroid": (53,),
    "Trachea": (54,),
}
"""The files tell 54 values, nine of them overlaps of two organs; an organ is the union of its own and its overlaps."""

ENTRY = replace(
    segrap.ENTRY,
    title="SegRap23-organs",
    about="45 organs at risk of the head and neck, 120 pairs of CTs without and with contrast",
    structures=ORGANS,
    layouts=(
        Layout(segrap.IMAGES, f"{segrap.LABELS}/Task001/{{case}}.nii.gz"),
        Layout(segrap.IMAGES, f"{segrap.LABELS}/task001/{{case}}.nii.gz", some=True),
    ),
    unconfirmed=("the unions are those of a participant's evaluation code; labels were corrected once after publication",),
)
