"""RMS normalisation of queries and keys over the head dim, followed by rotary position embedding."""
