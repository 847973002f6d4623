"""Tracking: from prompts to labels, in a volume (`volume_tracker`) and in a set of images (`image_set`).

`plan`, `fusion`, `postprocess` and `confidence` know numpy and no torch; the rest may import `model`. Nothing is imported here.
"""
