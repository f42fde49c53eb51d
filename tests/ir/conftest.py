"""Hypothesis for this folder: no database on disk, no deadlines on a busy machine, seeds printed."""

from hypothesis import settings

settings.register_profile("ir", database=None, deadline=None, print_blob=True)
settings.load_profile("ir")
