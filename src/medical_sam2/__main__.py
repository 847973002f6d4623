"""`python -m medical_sam2`: the command line, where `medsam2` is not on the path."""

import sys

from medical_sam2.cli import main

if __name__ == "__main__":
    sys.exit(main())
