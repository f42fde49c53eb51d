"""What backends around a vendor's compiler share: worker processes, a cache, legalisation, learnt support."""
