"""What a reader sees: of one run, and of many."""
