"""Data sets: what is in a folder, what is wrong with it, and how a new one is made."""
