"""Tracking: from prompts to labels, in a volume (`volume_tracker`) and in a set of images (`image_set`).

`limits`, `plan`, `fusion`, `finishing` and `confidence` know numpy and no torch; the rest may import `model`. Nothing is
imported here.
"""
