"""What reads and writes the cluster for the core."""
