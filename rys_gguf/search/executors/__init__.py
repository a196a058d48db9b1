"""Where jobs run: in this process's threads, or on a cluster."""
