"""From stamped messages to rows at control rate, the same from a bag and from live topics."""
