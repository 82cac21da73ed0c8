"""What measures: runs, summaries, training, data, judges. Scripts call it; nothing below knows it."""
