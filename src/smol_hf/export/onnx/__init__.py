"""The target `onnx`. Read `graphs`, then `tracing`, `precisions`, `folder`, `answering`, and `target`."""
