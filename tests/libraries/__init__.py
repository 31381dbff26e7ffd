"""Debian's i386 shared libraries, in the machine and natively: fetch.py gets them, sides.py calls them."""
