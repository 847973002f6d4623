"""CAS23: cerebral arteries in time-of-flight MR angiography."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="CAS23",
    about="cerebral arteries: 100 time-of-flight MR angiographies with labels",
    url="https://codalab.lisn.upsaclay.fr/competitions/9804",
    access="registration (CAS2023_trainingdataset)",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Chen 2023, Cerebral Artery Segmentation challenge, MICCAI 2023",
    kind="volume",
    modality="MR",
    channels=("TOF-MRA",),
    structures={"artery": (1,)},
    prompt="box",
    layouts=(Layout(("**/data/{case}.nii.gz",), "**/mask/{case}.nii.gz"),),
    unconfirmed=(
        "the headers claim voxels of 1 mm; the true spacing stands in meta.csv and is not applied: distances in mm are wrong",
    ),
)
