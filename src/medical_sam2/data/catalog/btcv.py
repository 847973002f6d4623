"""BTCV: abdominal organs in CT."""

from medical_sam2.data.catalog.entry import Entry, Layout

ENTRY = Entry(
    title="BTCV",
    about="the twelve abdominal organs of the paper, 30 portal venous CTs with labels, 20 without",
    url="https://www.synapse.org/#!Synapse:syn3193805/wiki/89480",
    access="registration on Synapse",
    licence="not stated on the page that was seen; terms of the challenge",
    citation="Landman 2015, Multi-Atlas Labeling Beyond the Cranial Vault",
    kind="volume",
    modality="CT",
    channels=("CT",),
    structures={
        "spleen": (1,),
        "right_kidney": (2,),
        "left_kidney": (3,),
        "gallbladder": (4,),
        "oesophagus": (5,),
        "liver": (6,),
        "stomach": (7,),
        "aorta": (8,),
        "inferior_vena_cava": (9,),
        "portal_and_splenic_veins": (10,),
        "pancreas": (11,),
        "adrenal_glands": (12, 13),
    },
    prompt="mask",
    layouts=(
        Layout(("**/Training/img/img{case}.nii.gz",), "**/Training/label/label{case}.nii.gz"),
        Layout(("**/Testing/img/img{case}.nii.gz",), split="test"),
        Layout(("**/imagesTr/img{case}.nii.gz",), "**/labelsTr/label{case}.nii.gz"),
        Layout(("**/imagesTs/img{case}.nii.gz",), split="test"),
    ),
    unconfirmed=("that the paper's adrenal gland (AG) is both glands together",),
)
