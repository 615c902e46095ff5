"""Proof: 20,000 damaged checkpoints load or raise `SDXLError`, each in under 2 s and 200 MB (`fuzz_checkpoint.py`)."""

from __future__ import annotations

from fuzz_checkpoint import main

if __name__ == "__main__":
    main(["--count", "20000"])
