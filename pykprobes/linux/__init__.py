"""Linux as a guest: boot protocol, console, initial RAM file systems, symbols."""
