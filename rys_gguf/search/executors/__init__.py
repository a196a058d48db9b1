"""The ways to run jobs: in threads of this process, or on a cluster."""
