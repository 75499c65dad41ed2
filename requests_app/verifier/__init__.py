"""Offline verification of evidence bundles, with the standard library and `cryptography` alone.

This folder is complete in itself: copied anywhere, it runs there as `python -m verifier bundle.zip
--trust trust.txt`. The application writes its log, proofs, notes and bundles with the
same functions.
"""
