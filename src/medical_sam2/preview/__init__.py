"""Pictures to judge a segmentation by at a glance, in the way of a radiologist's screen.

`pictures` makes them whole, `drawing` has tiles, colours and letters. Import what is named here.
"""

from medical_sam2.preview.pictures import animation, as_html, contact_sheet, montage, save

__all__ = ["animation", "as_html", "contact_sheet", "montage", "save"]
