"""Bytes that nobody should have sent: what the fuzzer throws at the parsers and decoders, and what must still hold.

``python -m tests.fuzz`` runs it for long, guided by coverage; ``tests/unit/test_fuzz_targets.py`` runs the same
targets briefly.
"""
