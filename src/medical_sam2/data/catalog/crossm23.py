"""CrossMoDA 2023: vestibular schwannoma and cochlea in MR."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="CrossMoDA23",
    about="vestibular schwannoma within and beyond the ear canal, cochlea: 227 contrast-enhanced T1 volumes with labels",
    url="https://www.synapse.org/#!Synapse:syn51236108",
    access="registration on Synapse and with the challenge",
    licence="not stated on the page that was seen; ask the organisers",
    citation="Wijethilake 2025, crossMoDA challenge 2021 to 2023",
    kind="volume",
    modality="MR",
    channels=("ceT1",),
    structures={"tumour": (1, 2), "intrameatal_tumour": (1,), "extrameatal_tumour": (2,), "cochlea": (3,)},
    prompt="box",
    layouts=(Layout(("**/TrainingSource/{case}_ceT1.nii.gz",), "**/TrainingSource/{case}_Label.nii.gz"),),
    unconfirmed=("the T2 volumes of TrainingTarget and of the validation set have no labels and are left out",),
)
