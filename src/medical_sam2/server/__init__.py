"""A local server with a page (click, see the outline, correct it, download it), and the protocols of other viewers.

`app.serve` runs it with `security.ServerSettings` and `inference_queue.InferenceQueue`; `medsam2 serve` imports these three.
It may import everything below the command line, and nothing imports it but that.
"""
