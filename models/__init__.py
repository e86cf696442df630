"""CT enhancement networks in plain torch; nothing here knows how they are compressed."""
