"""Steps before a run: download, unpack, check and describe datasets."""
