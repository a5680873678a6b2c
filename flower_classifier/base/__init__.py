"""What every room stands on: errors, words, messages, signals, options. Loads no torch."""
