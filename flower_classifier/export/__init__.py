"""What leaves Python: a checkpoint as an ONNX file, answered without torch, in a terminal or on a page."""
