"""What nodes and `shoal batch run` hold in memory while batches of very different sizes are done."""
