"""Checks of an installation on its own machine, with the weights and data sets that are there."""
