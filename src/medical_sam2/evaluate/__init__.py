"""Evaluation: a protocol is measured on data sets by several methods (`run.run_studies`), and reported (`report.write_report`).

`methods` holds who answers. Import the modules; nothing is exported here.
"""
