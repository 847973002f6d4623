"""LNQ23: mediastinal lymph nodes in CT, of which only some are outlined."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="LNQ23",
    about="mediastinal lymph nodes: about 390 CTs with some of their nodes outlined, 20 and 100 with all",
    url="https://lnq2023.grand-challenge.org/data/",
    access="registration",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Dorent 2024, arXiv 2408.10069",
    kind="volume",
    modality="CT",
    channels=("CT",),
    structures={"lymph_node": (1,)},
    prompt="box",
    layouts=(
        Layout(("**/lnq2023-train-{case}-ct.nrrd",), "**/lnq2023-train-{case}-seg.nrrd"),
        Layout(("**/lnq2023-val-{case}-ct.nrrd",), "**/lnq2023-val-{case}-seg.nrrd", "test", "val_", some=True),
        Layout(("**/lnq2023-test-{case}-ct.nrrd",), "**/lnq2023-test-{case}-seg.nrrd", "test", "test_", some=True),
    ),
    unconfirmed=(
        "in the training cases most nodes are not outlined: outside of a mask may be lymph node",
        "some training masks are said to lie on a smaller grid than their CT; such a case is refused and named",
        "names of the validation and test masks, where they are given out",
    ),
)
