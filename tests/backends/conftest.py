"""Makes the modules beside this file importable from the folders of single backends."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
