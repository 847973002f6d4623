"""CadVidSet: coronary arteries in frames of X-ray angiographies."""

from medical_sam2.data.catalog.entry import WHITE, Entry, Layout

ENTRY = Entry(
    title="CadVidSet",
    about="coronary arteries in frames of X-ray angiography videos",
    url="https://doi.org/10.1186/s12880-020-00509-9",
    access="no download is known; ask the authors of the paper",
    licence="unknown",
    citation="Wang 2020, BMC Medical Imaging 20:110",
    kind="set",
    modality="XA",
    channels=("XA",),
    structures={"coronary_artery": (1,)},
    prompt="mask",
    layouts=(Layout(("images/{case}.png",), "masks/{case}.png"),),
    unconfirmed=(
        "that the paper's data set is the one of this publication",
        "the whole layout: put the frames into images/ and their black and white masks into masks/, with the same names",
    ),
    remap=WHITE,
)
