"""Data sets as cards, their readers, the published splits, the official transforms and the loader."""
