"""Data folders: what is in one, what is wrong with it, and how a new one is made."""
