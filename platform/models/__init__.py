"""What a sweep leaves to be used: trained models, their ONNX files, what they cost."""
