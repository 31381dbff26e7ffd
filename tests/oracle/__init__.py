"""The machine against other processors: the real CPU (native.py) first of all, and Unicorn (emulated.py)."""
