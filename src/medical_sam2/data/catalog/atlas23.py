"""ATLAS23: liver and its tumours in contrast-enhanced MR."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="ATLAS23",
    about="liver and hepatocellular carcinoma, 60 contrast-enhanced MR volumes with labels",
    url="https://atlas-challenge.u-bourgogne.fr/dataset",
    access="registration (atlas-train-dataset-1.0.1.zip)",
    licence="CC BY-NC-SA 4.0",
    citation="Quinton 2023, Data 8(5):79",
    kind="volume",
    modality="MR",
    channels=("MR",),
    structures={"liver": (1, 2), "tumour": (2,)},
    prompt="click",
    layouts=(Layout(("**/imagesTr/im{case}.nii.gz",), "**/labelsTr/lb{case}.nii.gz"),),
)
