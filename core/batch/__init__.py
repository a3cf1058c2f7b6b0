"""Many runs: configs x seeds x overrides x streams in worker processes, one table of metrics."""
