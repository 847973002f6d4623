"""REFUGE: optic disc and cup in fundus photographs."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="REFUGE",
    about="optic disc and cup: 400 fundus photographs to train on, 400 to validate, 400 to test",
    url="https://refuge.grand-challenge.org/",
    access="registration",
    licence="terms of the challenge: research",
    citation="Orlando 2020, Medical Image Analysis 59:101570",
    kind="set",
    modality="fundus",
    channels=("R", "G", "B"),
    structures={"disc": (1, 2), "cup": (2,)},
    prompt="box",
    layouts=(
        Layout(("**/Training400/*/{case}.jpg",), "**/Annotation-Training400/**/Disc_Cup_Masks/*/{case}.bmp"),
        Layout(("**/REFUGE-Validation400/{case}.jpg",), "**/REFUGE-Validation400-GT/**/Disc_Cup_Masks/{case}.bmp", "test"),
        Layout(("**/Test400/{case}.jpg",), "**/REFUGE-Test-GT/**/Disc_Cup_Masks/*/{case}.bmp", "test"),
    ),
    remap={255: 0, 128: 1, 0: 2},
)
