"""KiTS23: kidneys, tumours and cysts in CT."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="KiTS23",
    about="kidneys with their tumours and cysts, 489 abdominal CTs with labels",
    url="https://kits-challenge.org/kits23/",
    access="free: github.com/neheller/kits23 fetches the images",
    licence="CC BY-NC-SA 4.0",
    citation="Heller 2023, arXiv 2307.01984",
    kind="volume",
    modality="CT",
    channels=("CT",),
    structures={"kidney_and_masses": (1, 2, 3), "masses": (2, 3), "tumour": (2,), "cyst": (3,)},
    prompt="click",
    layouts=(Layout(("**/{case}/imaging.nii.gz",), "**/{case}/segmentation.nii.gz"),),
    unconfirmed=("the licence, which is that of the challenge's earlier editions",),
)
