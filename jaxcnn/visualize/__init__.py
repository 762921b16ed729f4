"""Looking inside networks, and pictures of runs."""
