"""The target `onnx`. Read `graphs`, then `precisions`, `folder`, `answering`, and `target`."""
