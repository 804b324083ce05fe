"""Results as tables and drawings."""
