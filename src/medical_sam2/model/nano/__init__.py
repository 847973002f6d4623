"""`nano`, the small network that ships with the package.

`network` puts together SAM 2, its own image encoder (`encoder`), what it finds in memory (`memory_matching`) and what it does
to masks (`mask_refinement`). Import from here; the parts are for `network` and for tests.
"""

from medical_sam2.model.nano.network import Nano, nano, nano_configuration

__all__ = ["Nano", "nano", "nano_configuration"]
