"""Checks of an installation on its own machine, with the weights and datasets that are there."""
