"""Modules of other libraries, and your own, as towers."""
