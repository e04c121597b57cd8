"""`python -m sparkles`."""

from __future__ import annotations

import sys

from sparkles.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
