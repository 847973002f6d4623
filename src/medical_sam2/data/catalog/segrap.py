"""SegRap 2023, task 2: nasopharyngeal carcinoma in CT without and with contrast."""

from medical_sam2.data.catalog.entry import Entry, Layout

IMAGES = (
    "**/SegRap2023_Training_Set_120cases/{case}/image.nii.gz",
    "**/SegRap2023_Training_Set_120cases/{case}/image_contrast.nii.gz",
)
LABELS = "**/SegRap2023_Training_Set_120cases_OneHot_Labels"

ENTRY = Entry(
    title="SegRap23",
    about="gross tumour volumes of nasopharyngeal carcinoma and its lymph nodes, 120 pairs of CTs without and with contrast",
    url="https://segrap2023.grand-challenge.org/dataset/",
    access="registration",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Luo 2023, arXiv 2312.09576",
    kind="volume",
    modality="CT",
    channels=("CT", "CT"),
    structures={"primary_tumour": (1,), "lymph_nodes": (2,)},
    prompt="box",
    layouts=(
        Layout(IMAGES, f"{LABELS}/Task002/{{case}}.nii.gz"),
        Layout(IMAGES, f"{LABELS}/task002/{{case}}.nii.gz", some=True),
    ),
    unconfirmed=("the paper names nasopharynx cancer, so its task is taken to be the tumour; segrap_organs has the organs",),
)
