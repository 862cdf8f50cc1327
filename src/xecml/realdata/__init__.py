"""Real data: the analyser's rec files, made into event files."""
