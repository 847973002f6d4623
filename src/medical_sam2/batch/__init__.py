"""Many volumes in one run: cases from a folder or a table, outlined one after the other or by a cluster, each result whole.

`table` and `cases` say what is to be done, `run` does it, `outputs` says how it lies there; `cluster` spreads it over machines.
"""
