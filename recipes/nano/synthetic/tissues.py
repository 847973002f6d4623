"""How bright each tissue is under each kind of scanner."""

from types import MappingProxyType

SCANNERS = ("ct", "t1", "t2", "flair", "cine", "lge")
_TABLE = {  # ct in Hounsfield units, the others in percent
    "air": (-1000, 0, 0, 0, 0, 0),
    "gas": (-1000, 0, 0, 0, 0, 0),
    "lung": (-800, 5, 5, 5, 8, 10),
    "fat": (-100, 95, 75, 60, 80, 60),
    "muscle": (55, 35, 22, 25, 32, 25),
    "organ": (85, 45, 35, 40, 45, 40),
    "spleen": (110, 35, 60, 55, 55, 45),
    "cortex": (170, 50, 60, 60, 60, 50),
    "medulla": (120, 38, 65, 55, 60, 55),
    "gut": (20, 30, 60, 40, 60, 40),
    "contrast": (300, 60, 50, 50, 60, 60),
    "blood": (120, 25, 25, 30, 90, 65),
    "lge_blood": (130, 30, 25, 30, 88, 67),
    "vessel": (60, 20, 10, 25, 80, 60),
    "scar": (60, 70, 40, 60, 45, 90),
    "bone": (600, 12, 8, 8, 10, 10),
    "marrow": (200, 65, 45, 35, 50, 45),
    "disc": (80, 35, 40, 30, 40, 35),
    "fluid": (10, 15, 100, 8, 85, 30),
    "grey": (40, 45, 48, 52, 50, 45),
    "white": (30, 60, 36, 42, 45, 45),
    "hippocampus": (40, 46, 52, 56, 50, 45),
    "lesion": (50, 35, 60, 75, 60, 50),
    "rim": (100, 85, 50, 80, 60, 70),
    "necrosis": (25, 22, 85, 35, 60, 30),
    "edema": (30, 38, 78, 85, 50, 40),
    "table": (-300, 0, 0, 0, 0, 0),
}

LOOKS = MappingProxyType(
    {name: MappingProxyType({tissue: row[k] for tissue, row in _TABLE.items()}) for k, name in enumerate(SCANNERS)}
)
"""Scanner → tissue → brightness."""
