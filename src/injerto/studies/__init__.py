"""Many runs under one protocol: soups of runs."""
