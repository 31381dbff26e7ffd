"""Random programs against the real CPU, for as long as one likes."""
