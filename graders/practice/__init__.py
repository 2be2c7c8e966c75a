"""The practice loop: timed rounds, watching a file, hints, reviews, drills, and when a kata is due again."""
