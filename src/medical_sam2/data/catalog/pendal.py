"""Pendal: mandibles in panoramic dental radiographs."""

from medical_sam2.data.catalog.entry import WHITE, Entry, Layout

ENTRY = Entry(
    title="Pendal",
    about="mandibles: 116 panoramic radiographs, outlined by dentists (of two folders of masks the first is used)",
    url="https://data.mendeley.com/datasets/hxt48yk462/1",
    access="free",
    licence="not stated on the page that was seen",
    citation="Abdi 2015, Journal of Medical Imaging 2(4):044003",
    kind="set",
    modality="DX",
    channels=("DX",),
    structures={"mandible": (1,)},
    prompt="box",
    layouts=(Layout(("**/Images/{case}.*",), "**/Segmentation1/{case}.*"),),
    unconfirmed=(
        "the masks are taken to be white on black, and the radiographs to be stored in grey",
        "the address was not opened; the folders Images, Segmentation1 and Segmentation2 are those that users of the data name",
    ),
    remap=WHITE,
)
