"""The machine against other processors: the real CPU (silicon.py) first of all, and Unicorn (emulated.py)."""
