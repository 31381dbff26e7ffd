"""Guest programs that ship with the package."""
