"""Runs that train together: their steps are computed as one."""
