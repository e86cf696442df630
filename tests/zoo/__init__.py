"""Networks of the kinds that users bring: every block here was once pruned wrongly, or crashed."""
