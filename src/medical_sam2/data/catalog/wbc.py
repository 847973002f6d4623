"""WBC: white blood cells in smears."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="WBC",
    about="white blood cells and their nuclei: 300 images of 120 × 120 pixels, 100 of 300 × 300",
    url="https://github.com/zxaoyou/segmentation_WBC",
    access="free",
    licence="GPL-3.0",
    citation="Zheng 2018, Micron 107:55",
    kind="set",
    modality="microscopy",
    channels=("R", "G", "B"),
    structures={"cell": (1, 2), "nucleus": (2,)},
    prompt="click",
    layouts=(
        Layout(("**/Dataset 1/{case}.bmp",), "**/Dataset 1/{case}.png", prefix="1_"),
        Layout(("**/Dataset1/{case}.bmp",), "**/Dataset1/{case}.png", prefix="1_"),
        Layout(("**/Dataset 2/{case}.bmp",), "**/Dataset 2/{case}.png", prefix="2_"),
        Layout(("**/Dataset2/{case}.bmp",), "**/Dataset2/{case}.png", prefix="2_"),
    ),
    unconfirmed=("in the masks 128 is cytoplasm and 255 nucleus",),
    remap={0: 0, 128: 1, 255: 2},
)
