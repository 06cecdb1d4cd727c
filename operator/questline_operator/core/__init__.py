"""What a Job should do next, as a function of what the cluster shows: no I/O, no clock."""
