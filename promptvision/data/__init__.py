"""Datasets: cards, readers, published splits, official transforms, image cache and loaders."""
