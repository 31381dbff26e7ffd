"""Tests; a package, so that the oracles in tests/oracle can be imported."""
