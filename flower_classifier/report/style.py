"""The colours of pictures, and the sizes of their texts."""

# Prediction bars and charts share them
INK, FAINT, PALE = "#1d2b22", "#6b756f", "#f2f5f3"  # of texts; of lesser texts; of lines and backgrounds
GREEN, LIGHT_GREEN, PALE_GREEN, RED = "#2f7d4f", "#86cb98", "#c3e0ca", "#c23b4e"
GREY, LIGHT_GREY, PALE_GREY = "#9aa39d", "#b9c1bc", "#dce1de"  # of what says little
TINY, SMALL, CAPTION, NORMAL, TITLE, LARGE = 8.0, 8.5, 9.0, 10.0, 11.0, 13.0  # points
