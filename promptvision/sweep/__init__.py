"""Many runs: benchmarks, searches, local and Ray workers."""
