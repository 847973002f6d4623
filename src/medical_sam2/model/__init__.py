"""Networks, their memory and their weights; nothing here knows files of images, views or volumes.

`backbone` has the four verbs and the nouns that all networks share, `tracker` the loop, `memory_bank` what is remembered;
`sam2` and `nano` are networks, `weights` loads them. Nothing is imported here.
"""
