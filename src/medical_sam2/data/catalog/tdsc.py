"""TDSC-ABUS 2023: tumours in automated 3D breast ultrasound."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="TDSC-ABUS2023",
    about="breast tumours in 3D ultrasound: 100 volumes to train on, 30 to validate, 70 to test",
    url="https://tdsc-abus2023.grand-challenge.org/Dataset/",
    access="registration",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Luo 2025, arXiv 2501.15588",
    kind="volume",
    modality="US",
    channels=("US",),
    structures={"tumour": (1,)},
    prompt="click",
    layouts=(
        Layout(("**/Train/DATA/DATA_{case}.nrrd",), "**/Train/MASK/MASK_{case}.nrrd"),
        Layout(("**/Validation/DATA/DATA_{case}.nrrd",), "**/Validation/MASK/MASK_{case}.nrrd", "test"),
        Layout(("**/Test/DATA/DATA_{case}.nrrd",), "**/Test/MASK/MASK_{case}.nrrd", "test"),
    ),
    unconfirmed=("the NRRD headers may lack the voxel spacing: then millimetres mean nothing",),
)
