"""Rewrites that turn a segment into the form that a vendor's compiler handles best, IR to IR."""
